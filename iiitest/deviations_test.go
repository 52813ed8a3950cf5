package iiitest

// scenarios are the recordings that are replayed.
var scenarios = []scenario{
	{name: "invocations"},
	{name: "in-flight-loss"},
	{name: "liveness"},
	{name: "reattach"},
	{name: "conflicts"},
	{name: "namespaces"},
	{name: "http-triggers"},
	{name: "engine-functions", opts: []Option{WithQueueProvider(false)}},
	{name: "custom-trigger-types"},
	{name: "channels"},
	{name: "http-streaming"},
	{name: "http-middleware-and-reply-shapes"},
	{name: "state"},
	{name: "streams"},
	{name: "stream-provider"},
	{name: "enqueue-with-provider", opts: []Option{WithQueueProvider(false)}},
}

// deviations are the deliberate differences between this engine and the
// recorded one, by scenario and place. One that never happens fails the test.
var deviations = []*deviation{
	deviates("http-triggers", `DELETE /empty\.content-length`,
		"net/http gives an answer without a body, as 204 is, no length"),

	deviates("streams", `a stream::list_groups\.result\[[01]\]`,
		"the recorded order is that of a hash; here it is that of the names"),
	deviates("stream-provider", `provider stream::list_all\.result\.(count|stream)`,
		"the recorded engine still held the streams of other conversations"),

	deviates(".*", `.*\.registered_triggers\[iii-[a-z]+::config-watch\]`,
		"there are no configuration functions, so no part of the engine watches its configuration"),
	deviates("engine-functions", `.*\.functions\[iii-queue::on-config-change\]`, "likewise"),
	deviates("engine-functions", `.*\.functions\[configuration::[a-z]+\]`, "likewise"),
	deviates("engine-functions", `.*\.(workers|triggers)\[configuration\]`, "likewise"),
	deviates("engine-functions", `.*\.workers\[iii-[a-z-]+\]\.function_count`, "likewise, and each part has the functions that it has here"),

	deviates("engine-functions", `.*\.functions\[(engine::queue|iii::queue|iii::durable)::[a-z_]+\]`, "there are no durable topics"),
	deviates("engine-functions", `.*\.(workers\[iii-queue\]|triggers\[durable:subscriber\])`, "likewise"),
	deviates("engine-functions", `.*\.(workers\[iii-cron\]|triggers\[cron\])`, "there is no cron"),
	deviates("engine-functions", `.*\.triggers\[trace\]`, "there are no trace triggers"),
	deviates("engine-functions", `.*\.workers\[iii-(http-functions|telemetry)\]`, "there are no functions invoked over HTTP; nothing is told to the makers of the engine"),
	deviates("engine-functions", `.*\.workers\[iii-worker-manager#1\]`, "the recorded engine had a second, guarded listener"),
}
