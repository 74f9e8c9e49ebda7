// A man page that lacks an option is worse than none. Every option that --help knows is in the verb's page, and every
// verb has one.

import Foundation
import TestKit
import Testing

@Suite("Man pages", .enabled(if: Tools.haveQblk, "\(Tools.qblkReason)"))
struct ManPageTests {
    static let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../docs/man")
    static let verbs = [
        "map", "unmap", "list", "table", "doctor", "serve", "attach", "detach", "info", "extents", "check", "compare",
        "convert", "create", "resize", "bench",
    ]

    @Test("the page has every option of --help", arguments: verbs)
    func options(verb: String) throws {
        let help = try qblk(verb, "--help")
        #expect(help.exit == 0 && help.errors.isEmpty, "\(help)")
        #expect(help.output.contains("Example:"), "\(verb) --help has no example")
        // mdoc writes -O as `Fl O` and --json as `Fl -json`.
        let page = try String(contentsOf: Self.folder.appending(path: "qblk-\(verb).1"), encoding: .utf8)
        // What comes before is prose, with other programs' options in its examples.
        let usage = try #require(help.output.range(of: "USAGE:")).lowerBound
        for match in help.output[usage...].matches(of: #/(?:^|\s)-(-?[A-Za-z][a-z0-9-]*)/#) {
            let option = String(match.1)
            let isNamed = page.matches(of: try Regex("[ ,]\(option)[ ,\n]")).isEmpty == false
            #expect(isNamed, "-\(option) is not in qblk-\(verb).1: run tools/man")
        }
    }

    @Test("the main page leads to every verb's")
    func overview() throws {
        let page = try String(contentsOf: Self.folder.appending(path: "qblk.1"), encoding: .utf8)
        for verb in Self.verbs { #expect(page.contains("qblk-\(verb)"), "\(verb) is missing: run tools/man") }
    }
}
