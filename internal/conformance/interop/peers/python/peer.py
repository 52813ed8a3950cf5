"""The peer on the official SDK for Python. INTEROP_PEER configures it, and calls to peer::do
control it. The peer for Go is the reference."""

import asyncio
import hashlib
import json
import os
import signal
import threading
import warnings

from iii import InitOptions, InvocationError, IStream, ObserveHooks, ObserveRejection, TriggerAction, register_worker
from iii.helpers import create_channel_async, create_stream
from iii.stream import StreamDeleteResult, StreamSetResult
from iii.trigger import TriggerHandler
from iii_helpers.http import HttpInvocationConfig, http
from iii_helpers.observability import Logger, OtelConfig, with_span
from opentelemetry import metrics

warnings.simplefilter("ignore")  # the SDK deprecates triggers, which the scenarios use

config = json.loads(os.environ["INTEROP_PEER"])
iii = register_worker(
    config["url"],
    InitOptions(
        worker_name=config["name"],
        worker_description="a peer",
        namespace=config.get("namespace"),
        headers=config.get("headers"),
        otel=OtelConfig(service_name=config["name"], metrics_export_interval_ms=200),
    ),
)
logger = Logger()
functions = {}
triggers = {}
bindings = {}
observers = {}
ended = threading.Event()


async def call(function_id, payload, **more):
    return await iii.trigger_async({"function_id": function_id, "payload": payload, **more})


async def tell(function_id, payload, metadata=None):
    await call("go::seen", {"function_id": function_id, "payload": payload, "metadata": metadata})


async def drain(reader):
    """Read a channel to its end: text messages, then bytes."""
    texts = []
    reader.on_message(lambda m: texts.append(json.loads(m)))
    data = await reader.read_all()
    return {"texts": texts, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


async def fill(writer, n):
    """Write a text message and n bytes to a channel."""
    await writer.send_message_async(json.dumps({"hello": "channel"}))
    await writer.write(bytes((i * 31 + (i >> 8) * 7) & 0xFF for i in range(n)))
    await writer.close_async()
    return True


async def step_call(s):
    more = {key: s[key] for key in ("metadata", "namespace", "timeout_ms") if key in s}
    action = s.get("action", {})
    if action.get("type") == "void":
        more["action"] = TriggerAction.Void()
    if action.get("type") == "enqueue":
        more["action"] = TriggerAction.Enqueue(queue=action["queue"])
    return await call(s["function_id"], s["payload"], **more)


async def step_listen(s):
    left = s["failures"]

    async def listener(data, metadata=None):
        nonlocal left
        await tell(s["function_id"], data, metadata)
        left -= 1
        if left >= 0:
            raise RuntimeError("not yet")
        return s["reply"]

    functions[s["function_id"]] = iii.register_function(s["function_id"], listener)


async def step_unregister(s):
    functions.pop(s["function_id"]).unregister()


async def step_bind(s):
    handle = f"t{len(triggers)}"
    triggers[handle] = iii.register_trigger(
        {"type": s["type"], "function_id": s["function_id"], "config": s["config"], "metadata": s.get("metadata")}
    )
    return handle


async def step_unbind(s):
    triggers[s["handle"]].unregister()


class Bell(TriggerHandler):
    async def register_trigger(self, b):
        if b.config.get("refuse"):
            raise RuntimeError("not this one")
        bindings[b.id] = b
        await tell("bound", {"id": b.id, "function_id": b.function_id, "config": b.config, "metadata": b.metadata})

    async def unregister_trigger(self, b):
        await tell("unbound", {"id": b.id})


async def step_provide(s):
    iii.register_trigger_type({"id": s["type"], "description": "rings"}, Bell())


async def step_fire(s):
    b = bindings[s["id"]]
    return await call(b.function_id, s["payload"], metadata=b.metadata)


async def step_http_invoked(s):
    invocation = HttpInvocationConfig(
        url=s["url"], method=s["method"], headers={s["header"]: s["value"]}, auth={"type": "hmac", "secret_key": s["secret"]}
    )
    iii.register_function(s["function_id"], invocation)


async def step_channel_in(s):
    channel = await create_channel_async(iii)
    writer = channel.writer_ref.model_dump(mode="json")
    called = asyncio.ensure_future(call(s["function_id"], {"writer": writer, "bytes": s["bytes"]}))
    report = await drain(channel.reader)
    await called
    return report


async def step_channel_out(s):
    channel = await create_channel_async(iii)
    reader = channel.reader_ref.model_dump(mode="json")
    written = asyncio.ensure_future(fill(channel.writer, s["bytes"]))
    report = await call(s["function_id"], {"reader": reader})
    await written
    return report


class Shelf(IStream):
    def __init__(self):
        self.items = {}

    async def get(self, input):
        return self.items.get((input.group_id, input.item_id))

    async def set(self, input):
        old = self.items.get((input.group_id, input.item_id))
        self.items[input.group_id, input.item_id] = input.data
        return StreamSetResult(old_value=old, new_value=input.data)

    async def delete(self, input):
        return StreamDeleteResult(old_value=self.items.pop((input.group_id, input.item_id), None))

    async def list(self, input):
        return [value for (group, _), value in self.items.items() if group == input.group_id]

    async def list_groups(self, input):
        return sorted({group for group, _ in self.items})

    async def update(self, input):
        return None


async def step_store_stream(s):
    create_stream(iii, s["name"], Shelf())


async def step_observe(s):
    source = {key: s[key] for key in ("function_id", "args", "filters", "on", "capture", "deliver") if key in s}
    options = {key: s[key] for key in ("id", "metadata", "max_fires", "max_in_flight") if key in s}
    observer = iii.observe(source, s["target"], options)
    try:
        await asyncio.wait_for(observer.ready_async(), 5)
    except Exception:
        await observer.dispose_async()
        raise
    observers[observer.id] = observer
    return observer.id


async def step_observing(s):
    observer = observers[s["handle"]]
    reason = observer.reason
    return {"state": observer.state, **({"code": reason["code"]} if reason else {})}


async def step_dispose(s):
    await observers.pop(s["handle"]).dispose_async()


class Hooks(ObserveHooks):
    async def on_observer_added(self, obs):
        if obs.target == "go::unwanted":
            raise ObserveRejection("UNWANTED", "not this one")
        await tell("added", {"id": obs.id, "target": obs.target})

    async def on_observer_removed(self, obs):
        await tell("removed", {"id": obs.id})


def of_topic(s, data):
    """Return the observers of a topic, which the host selects itself in this version."""
    return [obs for obs in functions[s["function_id"]].observers() if obs.args["topic"] == data["topic"]]


async def step_host(s):
    async def emitting(data):
        data.pop("_caller_worker_id", None)
        for obs in of_topic(s, data):
            obs.emit(data)
        return data

    async def calling(data):
        data.pop("_caller_worker_id", None)
        for obs in of_topic(s, data):
            return await obs.call_async(data)

    owner = ObserveHooks(delivery="owner", args_format=s["schema"])
    handler, hooks = {"hooks": (echo, Hooks()), "args": (emitting, owner), "through": (calling, owner)}[s["kind"]]
    functions[s["function_id"]] = iii.register_function(s["function_id"], handler, observe=hooks)


async def step_relay(s):
    async def relay(data):
        await tell(s["function_id"], data)
        await call(s["target"], {})

    functions[s["function_id"]] = iii.register_function(s["function_id"], relay)


async def step_observers(s):
    return [obs.id for obs in functions[s["function_id"]].observers()]


async def step_length(s):
    return len(await call(s["function_id"], s["payload"]))


async def step_log(s):
    level = {"debug": logger.debug, "warn": logger.warn, "error": logger.error}[s["level"]]
    level(s["message"], s["data"])


async def step_count(s):
    metrics.get_meter("interop").create_counter(s["name"]).add(s["by"])


async def step_guard(s):
    async def guard(data):
        if data["headers"].get(s["header"]) != s["token"]:
            raise RuntimeError("no entry")
        return {"allowed_functions": s["allowed"]}

    functions[s["function_id"]] = iii.register_function(s["function_id"], guard)


async def step_shutdown(s):
    threading.Timer(0.05, ended.set).start()


steps = {name[5:].replace("_", "-"): f for name, f in globals().items() if name.startswith("step_")}


async def do(s):
    try:
        return {"value": await steps[s["step"]](s)}
    except (InvocationError, ObserveRejection) as e:
        return {"error": {"code": e.code, "message": str(e)}}
    except Exception as e:
        return {"error": {"code": "error", "message": f"{type(e).__name__}: {e}"}}


async def echo(data):
    return data


async def text(data):
    return "x" * data["bytes"]


async def inspect(data, metadata=None):
    data.pop("_caller_worker_id", None)
    return {"payload": data, "metadata": metadata}


async def crash(data):
    raise RuntimeError("it broke")


async def fail(data):
    raise InvocationError(data["code"], data["message"])


async def slow(data):
    await asyncio.sleep(data["ms"] / 1000)
    return "late"


async def answer(r):
    return {
        "status_code": 201,
        "headers": {"x-answer": "given"},
        "body": {
            "method": r["method"],
            "path_params": r["path_params"],
            "query_params": r["query_params"],
            "body": r["body"],
            "header": r["headers"].get("x-test"),
        },
    }


@http
async def stream(req, res):
    body = await req.request_body.read_all()
    await res.status(202)
    await res.headers({"content-type": "text/x-upper"})
    await res.writer.write(body.upper())
    await res.writer.close_async()


async def sink(data):
    return await drain(data["reader"])


async def source(data):
    return await fill(data["writer"], data["bytes"])


async def traced(data):
    async def work(span):
        logger.info("working", data["data"])
        return await call(data["function_id"], {})

    return await with_span("peer work", work)


for function_id, handler in {
    "peer::do": do,
    "peer::echo": echo,
    "peer::text": text,
    "peer::inspect": inspect,
    "peer::crash": crash,
    "peer::fail": fail,
    "peer::slow": slow,
    "peer::http": answer,
    "peer::http-stream": stream,
    "peer::sink": sink,
    "peer::source": source,
    "peer::traced": traced,
}.items():
    iii.register_function(function_id, handler)

signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
ended.wait()
iii.shutdown()
