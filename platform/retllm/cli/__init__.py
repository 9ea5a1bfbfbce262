"""The command line: ``retllm ...``, one module for each command."""
