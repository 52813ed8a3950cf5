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

// Browser is a headless Chromium with its own profile and pages, started by [Start]. Call its
// methods only from the test's goroutine.
type Browser struct {
	t   testing.TB
	ctx context.Context // chromedp's context
}

// names lists Chromium's executable names in order of preference.
var names = []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"}

// executable returns the path of Chromium: $CHROMIUM if set, otherwise the first installed
// executable in names.
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

// Start runs Chromium with an empty profile until the test ends. The test fails if Chromium is
// not installed.
func Start(t testing.TB) *Browser {
	t.Helper()
	path, err := executable()
	if err != nil {
		t.Fatal(err)
	}
	opts := append(chromedp.DefaultExecAllocatorOptions[:], // includes a new temporary --user-data-dir
		chromedp.ExecPath(path),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("hide-scrollbars", true),
		// Chromium's sandbox does not work if Chromium runs as root. The tests open only
		// trusted pages.
		chromedp.Flag("no-sandbox", os.Getuid() == 0),
	)
	// The browser must outlive the test's context, which is canceled before cleanup functions
	// run.
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

// Open opens url in a new tab of 1100 by 760 pixels and waits until the page has loaded.
// Uncaught exceptions and calls to console.error fail the test.
func (b *Browser) Open(url string) *Page {
	b.t.Helper()
	ctx, cancel := chromedp.NewContext(b.ctx)
	b.t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil { // no timeout: it would later close the tab
		b.t.Fatalf("no new tab: %v", err)
	}
	p := &Page{t: b.t, ctx: ctx}
	p.watch()
	p.Resize(1100, 760)
	p.do(fmt.Sprintf("open %s", url), chromedp.Navigate(url))
	return p
}
