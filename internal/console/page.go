package console

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed page
var files embed.FS

// page is the HTML document with its style and script inlined. The content security policy
// allows both by their hashes and forbids everything else.
var page = sync.OnceValue(func() (p struct{ body, policy string }) {
	read := func(names ...string) string {
		var b strings.Builder
		for _, name := range names {
			text, err := files.ReadFile(path.Join("page", name))
			if err != nil {
				panic(err) // cannot happen: the files are embedded
			}
			b.Write(text)
		}
		return b.String()
	}
	style, script := read(styles...), "\"use strict\";\n"+read(scripts...)
	p.body = strings.NewReplacer("{{style}}", style, "{{script}}", script).Replace(read("index.html"))
	p.policy = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; img-src data:; " +
		"style-src " + source(style) + "; script-src " + source(script)
	return p
})

// styles and scripts list the page's files in the order in which they are inlined.
var (
	styles  = []string{"base.css", "views.css"}
	scripts = []string{
		"dom.js", "format.js", "plot.js", "store.js", "shell.js", "overview.js", "invocations.js",
		"traces.js", "waterfall.js", "logs.js", "metrics.js", "registry.js", "stores.js", "main.js",
	}
)

// source returns the content security policy expression that allows an inline style or script.
func source(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func servePage(w http.ResponseWriter, _ *http.Request) {
	p := page()
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", p.policy)
	_, _ = w.Write([]byte(p.body))
}
