"""The actions of users, shared by the API and the pages, each with its audit entry and its notifications."""
