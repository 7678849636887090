"""What any service does besides its work: settings, access to Kafka, connecting, metrics, stopping, and its log."""
