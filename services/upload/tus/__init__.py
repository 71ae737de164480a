"""tus 1.0.0: headers, resumable uploads, PATCH requests, concatenation."""
