// Package enginetest supports the tests of package iii and its internal packages. It contains
// a WebSocket server, a fault-injecting proxy, and a telemetry validator. It imports none of
// the packages whose tests use it, so even internal tests can import it.
package enginetest

// InvalidJSON lists strings that are not valid JSON.
var InvalidJSON = []string{
	``, ` `, `{`, `{"`, `{"a`, `{"a"`, `{"a":`, `{"a":1`, `{"a":1,`, `{"a":1,}`, `{,}`, `{a:1}`, `{"a" 1}`, `{"a":1 "b":2}`, `{"a":1}}`, `{"a":1}x`,
	`{"a":01}`, `{"a":-}`, `{"a":1.}`, `{"a":.5}`, `{"a":1e}`, `{"a":1e+}`, `{"a":+1}`, `{"a":0x1}`, `{"a":1_0}`, `{"a":--1}`,
	`{"a":tru}`, `{"a":truE}`, `{"a":nul}`, `{"a":nulll}`, `{"a":undefined}`, `{"a":NaN}`, `{"a":Infinity}`,
	`{"a":"\x"}`, `{"a":"\u12"}`, `{"a":"\u12g4"}`, `{"a":"\`, `{"a":"\u`, "{\"a\":\"\n\"}", "{\"a\":\"\x00\"}", `{"a":'b'}`,
	`{"a":[}`, `{"a":[1,]}`, `{"a":[,1]}`, `{"a":[1 2]}`, `{"a":[1}`, `{"a":{]}`, `{"a":{"b"}}`, `{"a":{1:2}}`, `{"a":{"b":1,}}`, "{\"a\":1}\x00", "\ufeff{}",
}

// JSONSeeds lists seeds for JSON fuzz targets: messages, values and [InvalidJSON].
var JSONSeeds = append([]string{
	`{"type":"invokefunction","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","function_id":"a::b","data":{"x":[1,2.5e-3,null,true,"é\u00e9\n"]}}`,
	`{"type":"invocationresult","invocation_id":"0c1f6f0e-6d6e-4c41-9d0e-6a7b7a3f2f10","error":{"code":"C","message":"m"}}`,
	`[[],{},"",0,-0,-0.0e0]`, `"\ud800\udc00"`, ` null `, "{\"\xff\":\"\xc3\x28\"}", `{"a":1e999}`,
}, InvalidJSON...)
