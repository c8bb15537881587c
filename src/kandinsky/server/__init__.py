"""HTTP: the OpenAI Images API and jobs, over one durable queue. The only place that knows HTTP."""
