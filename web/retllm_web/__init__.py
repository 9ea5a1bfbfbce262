"""Flask application: REST API and pages."""
