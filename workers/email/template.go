package email

import (
	"embed"
	"fmt"
	htmltemplate "html/template"
	"regexp"
	"strings"
	texttemplate "text/template"
	"time"
	"unicode"
)

//go:embed templates
var files embed.FS

// letter is one kind of mail. The text's template defines the subject too.
type letter struct {
	text *texttemplate.Template
	html *htmltemplate.Template
}

// content is a mail without its addresses.
type content struct{ subject, text, html string }

func parseTemplates() (map[string]*letter, error) {
	letters := make(map[string]*letter)
	for _, name := range []string{"verification", "password_reset"} {
		text, err := texttemplate.New(name+".txt").Option("missingkey=error").ParseFS(files, "templates/"+name+".txt")
		if err != nil {
			return nil, fmt.Errorf("email: template %s: %w", name, err)
		}
		html, err := htmltemplate.New(name+".html").Option("missingkey=error").ParseFS(files, "templates/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("email: template %s: %w", name, err)
		}
		letters[name] = &letter{text, html}
	}
	return letters, nil
}

func (l *letter) render(product, nickname, code string, until time.Time) (content, error) {
	data := struct{ Product, Nickname, Code, Until string }{product, nickname, clean(code), ""}
	if !until.IsZero() {
		data.Until = until.UTC().Format("2006-01-02 15:04 UTC")
	}
	var subject, text, html strings.Builder
	if err := l.text.ExecuteTemplate(&subject, "subject", data); err != nil {
		return content{}, fmt.Errorf("email: render: %w", err)
	}
	if err := l.text.Execute(&text, data); err != nil {
		return content{}, fmt.Errorf("email: render: %w", err)
	}
	if err := l.html.Execute(&html, data); err != nil {
		return content{}, fmt.Errorf("email: render: %w", err)
	}
	return content{clean(subject.String()), text.String(), html.String()}, nil
}

// nicknameLimit in runes.
const nicknameLimit = 32

// linkish is what mail programs make a link of: a name with it would let anyone
// who registers somebody else's address send them a link in our name.
var linkish = regexp.MustCompile(`[/@:\\]|\.\pL{2,}|(?i:www\.)`)

// nickname is safe in a header, on a terminal and in front of whoever owns the
// address; empty where the name is none of that.
func nickname(s string) string {
	s = clean(s)
	if linkish.MatchString(s) {
		return ""
	}
	if runes := []rune(s); len(runes) > nicknameLimit {
		s = strings.TrimRightFunc(string(runes[:nicknameLimit]), unicode.IsSpace)
	}
	return s
}

// clean makes one line of s: runs of space, line ends and control characters
// become one space, what is no UTF-8 goes, and so do characters that turn the
// direction of the text around them. Joiners, of which emoji are made, stay.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r), unicode.IsControl(r), r == '\u2028', r == '\u2029':
			return ' '
		case r == unicode.ReplacementChar, unicode.Is(unicode.Bidi_Control, r):
			return -1
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}
