package main

import (
	"maps"
	"slices"
)

// intro is the beginning of the generated page.
const intro = `<!-- Written by make interop-update; do not edit. -->

# Interoperability

This page shows what happens when a worker of an official SDK runs on the development engine
next to a worker of this package. Each peer is a small program on the unmodified SDK from its
registry. The peer runs the steps of a scenario, and the Go worker compares the observations of
both sides. The peer go is the control group: the same program on this package.

The engine plays three [versions](engine-versions.md): 0.23, which has triggers and no observers,
and, where a title says so, 0.25 and 0.26, which have [observers](observers.md). Every peer runs
every scenario, regardless of the engine version that its SDK targets.

` + "```sh\nmake interop        # with the SDKs for Node and Python: needs node, npm, python3\nmake interop-rust   # with the SDK for Rust: needs cargo; the first build takes minutes\n```" + `

Both commands fail if an outcome differs from this page.

On a machine with two cores under other load, ` + "`make interop`" + ` took between one and a half
and two minutes, plus two minutes for the first installation of the SDKs. ` + "`make interop-rust`" + `
took one minute, and as long again for its first build.
`

const (
	failedText = `The blocks show the messages on the peer's connections, without the calls that control the
peer. Names replace ids, in order of appearance. If several scenarios fail for the same reason, the
block shows the first one.
`
	notOfferedText = "These scenarios run nevertheless, so that this list stays up to date.\n"
	remarksText    = "These scenarios pass, but the peer needs a workaround or behaves differently from the others.\n"
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

// names returns the names of scenarios on one engine version.
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
	"go": same("Engine 0.26 introduced arguments of observers, and hooks that select or call observers. On engine 0.25 the client "+
		"does not register a function that uses them: `Function.Err` matches `errors.ErrUnsupported`. This package does not "+
		"support owner delivery, which engine 0.25 has in their place.", names("0.25", "observed-args", "observed-through")...),
	"node": together(map[string]string{
		"big-integers": "The SDK decodes JSON numbers to JavaScript numbers, which are exact up to 2^53. The " +
			"engine and this package keep integers between −2^63 and 2^64−1 exact; send larger numbers as strings.",
		"error-go-peer":     invocationFailed,
		"namespace-go-peer": "In this version, the options of a worker have no namespace; the worker is in the namespace default.",
		"namespace-peer-go": "In this version, a call cannot name a namespace.",
		"logs":              noSeverity,
		"log-trigger-go":    noSeverity,
	}, same("The SDK sends the result in one WebSocket frame. The engine accepts frames of up to 16 MiB and "+
		"ends the connection when it receives a larger one; the worker reconnects.", "huge", "huge-peer-0.25", "huge-peer-0.26"),
		same("This version has neither observers nor hooks for the observers of other workers. The functions of such a worker "+
			"can be observed nevertheless, because the engine itself matches the calls.", withoutObservers...)),
	"python": {
		"null-peer-go": "If the payload is None, the message lacks the member data, which the protocol requires. The " +
			"engine drops the message without an answer, and the call times out. Pass {} instead.",
		"error-go-peer": invocationFailed,
		"baggage":       "The invocation carries baggage, but a call by its handler carries only the trace.",
		"gauges": "enable_metrics_reporting is on by default and the SDK exports the program's counters, but it " +
			"exports none of the iii.worker.* gauges of the process.",
		"observed-private-0.26": "This version targets engine 0.25, which has no private functions.",
	},
	"rust": together(same("In this version of the SDK, functions with hooks replace trigger types. They need "+
		"engine 0.26.", "provider-peer", "provider-peer-0.25"),
		same(noSeverity, "logs", "log-trigger-go"),
		same("Engine 0.26 introduced arguments of observers, and hooks that select or call observers. On engine 0.25 the SDK does "+
			"not register a function that uses them, and logs that they are unsupported.", names("0.25", "observed-args", "observed-through")...)),
}

const invocationFailed = "Every exception of a handler reaches the caller with the code invocation_failed, even the " +
	"SDK's own InvocationError with another code. Return a value that describes the error."

const noSeverity = "The records have a severity number but no severity text. The engine compares only the text, both " +
	"in the filter of engine::logs::list and in log triggers, so a log trigger with a level never fires for workers " +
	"of this SDK."

// remarks holds remarks about scenarios that pass.
var remarks = map[string]map[string]string{
	"python": same("This version uses owner delivery: the handler of the observed function looks up the observers of its topic, and "+
		"passes them the event (emit) or calls their targets (call). Playing 0.26, the development engine accepts this from workers of 0.25 as well.",
		"observed-args-0.25", "observed-through-0.25", "observed-args-0.26", "observed-through-0.26", "trigger-of-source-0.26"),
	"rust": together(same("This version of the SDK replaces triggers with observers, which engine 0.23 does not support. On engines 0.23 and 0.25, the "+
		"peer therefore binds its function by calling engine::register_trigger. Such a trigger outlives the worker.",
		"durable-go-peer", "durable-dead-letter", "http", "http-stream", "state-trigger-peer", "stream-trigger-peer", "join-leave",
		"pubsub-go-peer", "cron", "log-trigger", "provider-go", "reconnect",
		"http-0.25", "durable-go-peer-0.25", "state-trigger-peer-0.25", "provider-go-0.25",
	), map[string]string{
		"gauges": "The SDK has the gauges, but the program must register them itself, with the id that the engine " +
			"assigned to the worker. The SDK does not expose that id; the peer looks it up with engine::workers::info.",
	}),
}
