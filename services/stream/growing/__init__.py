"""Play while uploading: follows unfinished uploads, and serves ranges of them."""
