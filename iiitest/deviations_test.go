package iiitest

// scenarios are the recordings that are replayed.
var scenarios = []scenario{
	{name: "invocations"},
	{name: "in-flight-loss"},
	{name: "liveness"},
	{name: "reattach"},
	{name: "conflicts"},
	{name: "http-triggers"},
	{name: "custom-trigger-types"},
	{name: "channels"},
	{name: "http-streaming"},
	{name: "http-middleware-and-reply-shapes"},
	{name: "enqueue-with-provider", opts: []Option{WithQueueProvider(false)}},
}

// deviations are the deliberate differences between this engine and the
// recorded one, by scenario and place. One that never happens fails the test.
var deviations = []*deviation{
	deviates("http-triggers", `DELETE /empty\.content-length`,
		"net/http gives an answer without a body, as 204 is, no length"),

	deviates(".*", `.*\.registered_triggers\[iii-[a-z]+::config-watch\]`,
		"there are no configuration functions, so no part of the engine watches its configuration"),
}
