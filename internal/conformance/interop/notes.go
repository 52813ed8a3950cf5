package main

// intro begins the page.
const intro = `<!-- Written by make interop-update; do not edit. -->

# With other SDKs

What happens when a worker of an official SDK runs on the development engine beside a
worker of this package. Each peer is a small program on the SDK as its registry has it,
unchanged; it does what a scenario asks for, and the worker on our side compares what both
have seen. The peer go is the control group: the same program on this package.

` + "```sh\nmake interop        # with the SDKs for Node and Python: needs node, npm, python3\nmake interop-rust   # with the SDK for Rust: needs cargo, and builds for minutes\n```" + `

Both fail if an outcome differs from the ones below.

On a machine with two cores that had other work as well, ` + "`make interop`" + ` took between a
minute and a half and four minutes, and two minutes more the first time, when the SDKs are
installed; ` + "`make interop-rust`" + ` took 35 seconds once the SDK was built.
`

const (
	failedText = `The messages are those of the peer's connections, without the calls that steer the peer.
Ids are replaced by names in the order of their appearance.
`
	notOfferedText = "The scenarios are tried all the same, so that nothing here is out of date.\n"
	remarksText    = "What passed, but not as simply as elsewhere.\n"
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
		"big-integers": "JavaScript's numbers are exact up to 2^53, and the SDK reads JSON with them. The " +
			"engine and this package keep every digit; send such numbers as text.",
		"error-go-peer": "What a handler throws reaches the caller with the code invocation_failed, even the SDK's " +
			"own InvocationError with another one. Answer with a value that says what went wrong.",
		"namespace-go-peer": "The options of a worker have no namespace in this version; it is in the default one.",
		"observe":           noObservers,
		"namespace-peer-go": "The requests of a call have no namespace in this version.",
		"huge": "The result leaves in one WebSocket frame. The engine takes frames of up to 16 MiB and ends the " +
			"connection at a larger one; the worker comes back.",
		"logs":           noSeverity,
		"log-trigger-go": noSeverity,
	},
	"python": {
		"null-peer-go": "With None as the payload the message has no member data, which the protocol requires. The " +
			"engine drops such a message without an answer, and the call runs into its timeout. Pass {}.",
		"error-go-peer": "What a handler raises reaches the caller with the code invocation_failed, even the SDK's " +
			"own InvocationError with another one. Answer with a value that says what went wrong.",
		"baggage": "The invocation comes with baggage, and the call that its handler makes has none, though the " +
			"trace goes on.",
		"gauges": "enable_metrics_reporting is on by default, and counters of the program are exported, but none of " +
			"the gauges iii.worker.* of the process.",
	},
	"rust": {
		"provider-peer": "The SDK has no trigger types in this version: observers have taken their place, which " +
			"engines of version 0.23 do not know.",
		"logs":           noSeverity,
		"log-trigger-go": noSeverity,
	},
}

const noSeverity = "The records have a severity number and no severity text. The engine compares the text alone, in " +
	"the filter of engine::logs::list as well as in log triggers, so a log trigger with a level never fires for " +
	"this SDK's workers."

const noObservers = "There are no observers here, and none in engines of version 0.23."

// remarks are about scenarios that pass.
var remarks = map[string]map[string]string{
	"python": {
		"observe": "The SDK says UNSUPPORTED, and goes on.",
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
		"gauges": "The SDK has the gauges, but the program registers them itself, under the id that the engine gave " +
			"the worker. The SDK does not tell that id; the peer finds it with engine::workers::info.",
		"observe": "The SDK says UNSUPPORTED, and goes on.",
	},
}

const boundByCall = "The SDK has no triggers in this version: observers have taken their place, which engines of " +
	"version 0.23 do not know. The peer binds its function by calling engine::register_trigger. Such a trigger " +
	"outlives the worker."
