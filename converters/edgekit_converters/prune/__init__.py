"""Take structure out of a student and let it recover."""
