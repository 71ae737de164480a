"""Takes RTMP, SRT, MPEG-TS and WebM by ffmpeg, and sends them to the live service. Standard library only: see deploy/Dockerfile."""
