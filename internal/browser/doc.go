// Package browser tries the pages of this project in headless Chromium. It is a
// module of its own, for what drives the browser is no business of those who use
// the package. Its tests need Chromium and fail without it: `make browser` runs
// them, `go test ./...` in the root of the repository does not.
//
//	chromium := browser.Start(t)
//	program := browser.Run(t, "./examples/chat", "-serve")
//	page := chromium.Open(program.Match(`^open +(\S+)$`)[1])
//	page.WaitText("#log", "Hello")
//	page.Screenshot("chat")
package browser
