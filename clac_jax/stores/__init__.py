"""Object stores (gs://, s3://, az://): reading, writing and conditional writing of objects."""
