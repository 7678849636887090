"""The pipeline on a real embedded Kafka, watched live and audited at the end."""
