package main

// intro begins the page.
const intro = `<!-- Written by make interop-update; do not edit. -->

# Interoperability

This page shows what happens when a worker of an official SDK runs on the development engine
next to a worker of this package. Each peer is a small program on the unmodified SDK from its
registry. The peer runs the steps of a scenario, and the Go worker compares the observations of
both sides. The peer go is the control group: the same program on this package.

` + "```sh\nmake interop        # with the SDKs for Node and Python: needs node, npm, python3\nmake interop-rust   # with the SDK for Rust: needs cargo; the build takes minutes\n```" + `

Both commands fail if an outcome differs from this page.

On a machine with two cores under other load, ` + "`make interop`" + ` took between one and a half
and four minutes, plus two minutes for the first installation of the SDKs.
` + "`make interop-rust`" + ` took 35 seconds after the SDK had been built.
`

const (
	failedText = `The blocks show the messages on the peer's connections, without the calls that control the
peer. Ids are replaced by names in order of appearance.
`
	notOfferedText = "These scenarios run as well, so this list stays up to date.\n"
	remarksText    = "These scenarios pass, but not as simply as with the other peers.\n"
)

// missing are the scenarios that an SDK does not offer. They are tried all the same
// and must not pass.
var missing = map[string][]string{
	"go":     {"observe"},
	"node":   {"error-go-peer", "namespace-go-peer", "namespace-peer-go", "observe"},
	"python": {"error-go-peer"},
	"rust":   {"provider-peer"},
}

// explanations say why a scenario fails with a peer or is not offered by its SDK.
var explanations = map[string]map[string]string{
	"go": {"observe": noObservers},
	"node": {
		"big-integers": "The SDK decodes JSON numbers to JavaScript numbers, which are exact up to 2^53. The " +
			"engine and this package keep integers between −2^63 and 2^64−1 exact; send larger numbers as strings.",
		"error-go-peer": "Every exception of a handler reaches the caller with the code invocation_failed, even the " +
			"SDK's own InvocationError with another code. Return a value that describes the error.",
		"namespace-go-peer": "This version has no namespace in the options of a worker; the worker is in the namespace default.",
		"observe":           noObservers,
		"namespace-peer-go": "This version has no namespace in the request of a call.",
		"huge": "The SDK sends the result in one WebSocket frame. The engine accepts frames of up to 16 MiB and " +
			"ends the connection at a larger one; the worker reconnects.",
		"logs":           noSeverity,
		"log-trigger-go": noSeverity,
	},
	"python": {
		"null-peer-go": "With None as the payload, the message lacks the member data, which the protocol requires. The " +
			"engine drops such a message without an answer, and the call times out. Pass {} instead.",
		"error-go-peer": "Every exception of a handler reaches the caller with the code invocation_failed, even the " +
			"SDK's own InvocationError with another code. Return a value that describes the error.",
		"baggage": "The invocation carries baggage, but the call that its handler makes does not, although the " +
			"call carries the trace.",
		"gauges": "enable_metrics_reporting is on by default and the SDK exports the program's counters, but it " +
			"exports none of the iii.worker.* gauges of the process.",
	},
	"rust": {
		"provider-peer": "This version of the SDK replaces trigger types by observers, which engine 0.23 does not " +
			"support.",
		"logs":           noSeverity,
		"log-trigger-go": noSeverity,
	},
}

const noSeverity = "The records have a severity number but no severity text. The engine compares only the text, both " +
	"in the filter of engine::logs::list and in log triggers, so a log trigger with a level never fires for workers " +
	"of this SDK."

const noObservers = "Neither this package nor engine 0.23 has observers."

// remarks are about scenarios that pass.
var remarks = map[string]map[string]string{
	"python": {
		"observe": "The SDK reports UNSUPPORTED and continues.",
	},
	"rust": {
		"durable-go-peer":     boundByCall,
		"durable-dead-letter": boundByCall,
		"http":                boundByCall,
		"http-stream":         boundByCall,
		"state-trigger-peer":  boundByCall,
		"stream-trigger-peer": boundByCall,
		"join-leave":          boundByCall,
		"pubsub-go-peer":      boundByCall,
		"cron":                boundByCall,
		"log-trigger":         boundByCall,
		"provider-go":         boundByCall,
		"reconnect":           boundByCall,
		"gauges": "The SDK has the gauges, but the program must register them itself, under the id that the engine " +
			"assigned to the worker. The SDK does not expose that id; the peer finds it with engine::workers::info.",
		"observe": "The SDK reports UNSUPPORTED and continues.",
	},
}

const boundByCall = "This version of the SDK replaces triggers by observers, which engine 0.23 does not support. The " +
	"peer binds its function by calling engine::register_trigger. Such a trigger outlives the worker."
