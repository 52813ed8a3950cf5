package browser

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/chromedp/chromedp"
)

// Browser is a headless Chromium. It shares no pages and no profile with other browsers. Start
// returns it. Its methods may be called only from the test's goroutine.
type Browser struct {
	t   testing.TB
	ctx context.Context // the context of chromedp
}

// names lists the executable names of Chromium, in the order in which they are tried.
var names = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// executable returns the path of Chromium: $CHROMIUM, or the first of names that is installed.
func executable() (string, error) {
	if path := os.Getenv("CHROMIUM"); path != "" {
		return exec.LookPath(path)
	}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", errors.New("there is no Chromium here: install it (Debian: apt-get install chromium), or set $CHROMIUM to its path")
}

// Start runs Chromium with an empty profile until the test ends. If Chromium is not installed,
// the test fails.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], // these include a new temporary --user-data-dir
		chromedp.ExecPath(path),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("hide-scrollbars", true),
		// Chromium cannot use its sandbox as root. All pages that the tests open are trusted.
		chromedp.Flag("no-sandbox", os.Getuid() == 0),
	)
	// The browser must outlive the test's context, which ends before the cleanup function
	// shuts Chromium down.
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, _ := chromedp.NewContext(allocator)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("Chromium does not start: %v", err)
	}
	t.Cleanup(func() {
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("Chromium does not end in order: %v", err)
		}
	})
	return &Browser{t: t, ctx: ctx}
}

// Open opens a page of 1100 by 760 pixels in a new tab and waits until it has loaded. Uncaught
// exceptions of the page and calls of console.error fail the test.
func (b *Browser) Open(url string) *Page {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	b.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // without a timeout, which would later close the tab
		b.t.Fatalf("no new tab: %v", err)
	}
	p := &Page{t: b.t, ctx: ctx}
	p.watch()
	p.Resize(1100, 760)
	p.do(fmt.Sprintf("open %s", url), chromedp.Navigate(url))
	return p
}
