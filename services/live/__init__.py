"""The live service: takes live streams in, and makes files of them."""
