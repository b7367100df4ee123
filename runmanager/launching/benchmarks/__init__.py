"""What `runmanager bench` measures, and how."""
