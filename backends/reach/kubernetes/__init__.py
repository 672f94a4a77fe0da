"""Kubernetes as a Runtime: what asks for GPUs there, seen by watches and driven through the API."""
