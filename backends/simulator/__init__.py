"""An embedded cluster that speaks the real protocols on loopback; only the demo and the tests use it.

    from backends.simulator.cluster import SimulatedCluster
    from backends.simulator.demo import demo, many

    async with demo(directory, speed=1.0, visitors=True) as sim: ...      # the three tiers and the gateway
    async with many(directory, nodes=100, endpoints=1000) as sim: ...

    sim = SimulatedCluster(directory, speed=50)                           # one of your own: describe, then enter
    sim.add_node("mark", gpus=[sim.gpu(0, "NVIDIA GeForce RTX 3090", 24576)], fields={"queue": {"order": ["a"]}})
    a = sim.add_endpoint("remote/a", LlamaCpp(sim.world, models=["qwen"]), tier="REMOTE", node="mark",
                         container="a", gpu=0, vram_mib=4400, init_s=1.5, load_s=8, state="ready", tasks=["chat"])
    async with sim: ...

Durations are story seconds, and `speed` is story seconds per real second; what faults wait is real seconds. Inside:

    sim.inventory, sim.inventory_path     the text of cluster.toml, and where it lies; keys and known_hosts beside it
    sim.secrets                           values of the env: references in it: put them into your environment
    sim.endpoints["remote/a"]             .engine .server .program .container .service; start(), stop()
        .engine.requests                  Counter of "GET /health", ...; .seen keeps queries; .wedged hangs its work
        .server.inflict(HttpFault(kind))  refuse, black_hole, half_open, tls_broken, drip, reset, status, not_json,
                                          wrong_json, huge, redirect, slow, stop_in_mid_stream, cut_stream,
                                          garbage_stream, error_in_200, endless_stream; .server.heal(), .drop()
        .program.phase, .became_ready     stopped, starting, initialising, loading, ready
    sim.nodes["mark"]                     .host .docker .ssh .services .commands.ran; container(name), power_off(),
                                          power_on(), stop_docker(), start_docker(), restart_docker()
        .ssh                              refuse() swallow() hang() go_dark() drop() change_host_key() heal();
                                          denying, max_sessions, forwards_sockets, relay.lag
        .docker.server.inflict(...)       the same faults for its API; .docker.requests counts
        .host                             gpus, nvml_error, smi_hangs, lose_gpu(0), clock_offset, cuda.deadlocks
    sim.faults, sim.inflict(fault), sim.heal(fault), sim.heal_all()      what the demo's palette shows

`add_endpoint(..., fence="refuse")` makes an endpoint that only its node reaches (via = "ssh"); `Spec` of containers
gives images, restart policies, labels, volumes and health checks; `add_container` adds bystanders.

Engines: engines.ollama.Ollama, engines.llamacpp.LlamaCpp, engines.router.LlamaRouter, engines.vllm.Vllm,
engines.litellm.LiteLlm, engines.lmstudio.LmStudio, engines.sglang.SgLang, engines.openai.OpenAi and PlainHttp.
"""
