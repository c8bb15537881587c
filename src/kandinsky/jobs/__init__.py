"""A durable queue of requests and the processes that draw them; batches and the server share it."""
