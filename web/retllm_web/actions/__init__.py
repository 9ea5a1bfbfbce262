"""What people do, shared by the API and the pages: each action with its audit entry and its notifications."""
