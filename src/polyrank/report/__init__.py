"""What a reviewer reads: runs compared, and pages."""
