"""What people say of results, and what follows from it: marks, measures of searches, runs of evaluations."""
