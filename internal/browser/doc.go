// Package browser tests this project's web pages in headless Chromium. It is a separate module
// so that users of package iii do not depend on a browser driver. `make browser` runs its
// tests, which fail if Chromium is not installed. `go test ./...` in the repository root does
// not run them.
//
//	chromium := browser.Start(t)
//	program := browser.Run(t, "./examples/chat", "-serve")
//	page := chromium.Open(program.Match(`^open +(\S+)$`)[1])
//	page.WaitText("#log", "Hello")
//	page.Screenshot("chat")
package browser
