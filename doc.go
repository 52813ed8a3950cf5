// Package iii turns a Go program into a worker of the iii engine: it holds one
// WebSocket to the engine, registers functions and triggers, serves their
// invocations and calls the functions of other workers.
package iii
