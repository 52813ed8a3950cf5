// Package browser tests the pages of this project in headless Chromium. It is a separate
// module, so that users of package iii do not depend on the library that drives the browser.
// Its tests fail if Chromium is not installed: `make browser` runs them, and `go test ./...`
// in the root of the repository does not.
//
//	chromium := browser.Start(t)
//	program := browser.Run(t, "./examples/chat", "-serve")
//	page := chromium.Open(program.Match(`^open +(\S+)$`)[1])
//	page.WaitText("#log", "Hello")
//	page.Screenshot("chat")
package browser
