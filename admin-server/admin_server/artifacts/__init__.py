"""Where artifacts are kept beside their run's directory: on this machine's disk, or in an S3 bucket."""
