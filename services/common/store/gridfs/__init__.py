"""The store on MongoDB GridFS."""
