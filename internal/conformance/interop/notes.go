package main

import (
	"maps"
	"slices"
)

// intro is the generated page's introduction.
const intro = `<!-- Written by make interop-update; do not edit. -->

# Interoperability

This page shows how workers built with the official SDKs interoperate with workers built with
this package. Both run on the development engine. Each peer is a small program that uses an
unmodified SDK from its package registry. The peer runs a scenario's steps, and the Go worker
checks what both sides have observed. As a control, the peer named go is the same program built
with this package.

The development engine implements three [versions](engine-versions.md). Scenarios run on
version 0.23, which has triggers but no observers, unless their titles name version 0.25 or
0.26, which have [observers](observers.md). Every peer runs every scenario, whatever engine
version its SDK targets.

` + "```sh\nmake interop        # with the SDKs for Node and Python: needs node, npm, python3\nmake interop-rust   # with the SDK for Rust: needs cargo; the first build takes minutes\n```" + `

Both commands fail if an outcome differs from this page.

On two cores shared with other programs, ` + "`make interop`" + ` took 1.5 to 2 minutes, plus 2 minutes
to install the SDKs the first time. ` + "`make interop-rust`" + ` took 1 minute, plus another minute for
the first build.
`

const (
	failedText = `The blocks show the messages on the peer's connections, except for the calls that control the
peer. Ids are replaced by names, numbered in order of appearance. If several scenarios fail for
the same reason, the block shows the messages of the first one.
`
	notOfferedText = "The SDKs lack the features that these scenarios test. The scenarios still run, which keeps this list up to date.\n"
	remarksText    = "These scenarios pass, but the peer needs a workaround or behaves differently from the other peers.\n"
)

// missing maps each SDK to the scenarios that use features it does not offer. These scenarios
// run anyway, and must not pass.
var missing = map[string][]string{
	"go":     names("0.25", "observed-args", "observed-through"),
	"node":   slices.Concat([]string{"error-go-peer", "namespace-go-peer", "namespace-peer-go"}, withoutObservers),
	"python": slices.Concat([]string{"error-go-peer"}, names("0.26", "observed-private")),
	"rust":   slices.Concat([]string{"provider-peer"}, names("0.25", "observed-args", "observed-through", "provider-peer")),
}

// withoutObservers lists the scenarios that an SDK without observers cannot pass.
var withoutObservers = slices.Concat([]string{"observe"},
	names("0.25", "observed-hooks", "observed-args", "observed-through", "observing-reconnect", "observing-replaced"), names("0.25", namesOf(observing)...),
	names("0.26", "observed-hooks", "observed-args", "observed-through", "observing-reconnect", "observing-replaced"), names("0.26", namesOf(observing)...),
	names("0.26", namesOf(hosting)...), names("0.26", namesOf(sources)...))

// names appends the engine version to scenario names.
func names(protocol string, bare ...string) []string {
	var list []string
	for _, name := range bare {
		list = append(list, name+"-"+protocol)
	}
	return list
}

func namesOf(list []scenario) []string {
	var bare []string
	for _, s := range list {
		bare = append(bare, s.name)
	}
	return bare
}

func same(text string, names ...string) map[string]string {
	texts := map[string]string{}
	for _, name := range names {
		texts[name] = text
	}
	return texts
}

func together(parts ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, part := range parts {
		maps.Copy(all, part)
	}
	return all
}

// explanations states why scenarios do not pass with a peer.
var explanations = map[string]map[string]string{
	"go": same("Observer arguments, and hooks that select or call observers, require engine 0.26. On engine 0.25, the client does not register a function that uses them, and "+
		"`Function.Err` matches `errors.ErrUnsupported`. Engine 0.25 has a different mechanism, "+
		"owner delivery, which this package does not support.", names("0.25", "observed-args", "observed-through")...),
	"node": together(map[string]string{
		"big-integers": "The SDK decodes JSON numbers as JavaScript numbers, which are exact only up to 2^53. The " +
			"engine and this package keep integers exact between −2^63 and 2^64−1. Send larger " +
			"numbers as strings.",
		"error-go-peer": invocationFailed,
		"namespace-go-peer": "In this version, a worker cannot choose a namespace and is always in the namespace " +
			"default.",
		"namespace-peer-go": "In this version, a call cannot specify a namespace.",
		"logs":              noSeverity,
		"log-trigger-go":    noSeverity,
	}, same("The SDK sends the result in a single WebSocket frame. The engine closes the connection "+
		"when it receives a frame larger than 16 MiB. The worker then reconnects.", "huge", "huge-peer-0.25", "huge-peer-0.26"),
		same("This version supports neither observers nor hooks for them. Other workers can still "+
			"observe such a worker's functions, because the engine itself matches the calls.", withoutObservers...)),
	"python": {
		"null-peer-go": "If the payload is None, the SDK omits the key data, although the protocol requires it. The " +
			"engine drops the message without a reply, and the call times out. Pass {} instead.",
		"error-go-peer": invocationFailed,
		"baggage":       "The invocation carries baggage, but calls that the handler makes carry only the trace context.",
		"gauges": "Although enable_metrics_reporting is on by default, the SDK exports only the program's " +
			"counters and none of the iii.worker.* process gauges.",
		"observed-private-0.26": "This version of the SDK is for engine 0.25, which has no private functions.",
	},
	"rust": together(same("This version of the SDK has functions with hooks instead of trigger types. Such hooks require "+
		"engine 0.26.", "provider-peer", "provider-peer-0.25"),
		same(noSeverity, "logs", "log-trigger-go"),
		same("Observer arguments, and hooks that select or call observers, require engine 0.26. On engine 0.25, the SDK does not register a function that uses them, and "+
			"logs that they are not supported.", names("0.25", "observed-args", "observed-through")...)),
}

const invocationFailed = "If a handler raises an exception, the caller always receives the code invocation_failed, " +
	"even if the exception is the SDK's own InvocationError with a different code. To report " +
	"a code, return a value that contains it."

const noSeverity = "The records have a severity number but no severity text. The engine checks only the " +
	"text, both in log triggers and in the filter of engine::logs::list. A log trigger with a " +
	"level therefore never fires for this SDK's records."

// remarks holds notes about scenarios that pass.
var remarks = map[string]map[string]string{
	"python": same("This version uses owner delivery: the observed function's handler selects "+
		"observers by their topic argument, and either passes the event to them (emit) or calls their "+
		"targets (call). In its 0.26 mode, the development engine also accepts owner delivery from workers that are built for engine 0.25.",
		"observed-args-0.25", "observed-through-0.25", "observed-args-0.26", "observed-through-0.26", "trigger-of-source-0.26"),
	"rust": together(same("This version of the SDK has observers instead of triggers, and engine 0.23 does not "+
		"support observers. On engines 0.23 and 0.25, the peer therefore calls "+
		"engine::register_trigger to register its triggers. Such a trigger remains registered when the "+
		"worker disconnects.",
		"durable-go-peer", "durable-dead-letter", "http", "http-stream", "state-trigger-peer", "stream-trigger-peer", "join-leave",
		"pubsub-go-peer", "cron", "log-trigger", "provider-go", "reconnect",
		"http-0.25", "durable-go-peer-0.25", "state-trigger-peer-0.25", "provider-go-0.25",
	), map[string]string{
		"gauges": "The SDK can record process gauges, but the program has to register them with the id that the " +
			"engine assigned to the worker. The SDK does not expose this id, so the peer looks it up with " +
			"engine::workers::info.",
	}),
}
