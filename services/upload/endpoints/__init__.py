"""HTTP endpoints of the upload service: form, PUT and DELETE, tus."""
