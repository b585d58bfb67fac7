"""What tasks of embeddings need: their settings, and what a student learns of a teacher's embeddings."""
