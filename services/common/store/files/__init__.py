"""The store on a SQL database and the file system."""
