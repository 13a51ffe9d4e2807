"""Where miners and pool meet."""
