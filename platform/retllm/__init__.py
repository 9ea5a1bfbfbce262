"""retllm: accurate search over pictures and texts without training (RetLLM, arXiv 2602.22278)."""
