package iiitest_test

import (
	"fmt"
	"log"
	"net/http"

	"github.com/iii-go/iii/iiitest"
)

// The console shows an engine's activity, for example while a test is paused in a debugger.
func ExampleWithConsole() {
	engine, err := iiitest.New(iiitest.WithConsole("127.0.0.1:0"), iiitest.WithConsoleLimit(1<<20))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	resp, err := http.Get(engine.ConsoleURL())
	if err != nil {
		log.Fatal(err)
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status, resp.Header.Get("Content-Type"))
	// Output:
	// 200 OK text/html; charset=utf-8
}

// Expose the console to other machines only if everyone on the network is trusted.
func ExampleWithExposedConsole() {
	engine, err := iiitest.New(iiitest.WithExposedConsole("0.0.0.0:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()
	fmt.Println(engine.ConsoleURL() != "")
	// Output: true
}
