// Mistyped commands: the error names the command that was probably meant, also for `help` of a command that does not
// exist.

import DiskTypes

enum VerbName {
    /// Throws for a first argument, or one of `help`, that is no command.
    static func check(_ arguments: [String]) throws {
        let verb = arguments.first == "help" ? arguments.dropFirst().first : arguments.first
        guard let verb, !verb.hasPrefix("-"), verb != "help", !Qblk.verbs.contains(verb) else { return }
        let hint = nearest(to: verb).map { "did you mean `\($0)`? See `qblk --help`" } ?? "see `qblk --help`"
        throw Failure("there is no verb '\(printable(verb))': \(hint)", code: 1)
    }

    /// The command that differs from `word` by the fewest letters: at most two, and fewer than half of the word.
    static func nearest(to word: String) -> String? {
        let candidates = Qblk.verbs.map { (verb: $0, distance: distance(word, $0)) }
        guard let best = candidates.min(by: { $0.distance < $1.distance }) else { return nil }
        return best.distance <= 2 && best.distance * 2 < max(word.count, best.verb.count) ? best.verb : nil
    }

    /// How many letters must be inserted, deleted, changed, or exchanged with their neighbour to make one word of the
    /// other (the Damerau-Levenshtein distance, with each letter changed once).
    static func distance(_ first: String, _ second: String) -> Int {
        let (a, b) = (Array(first), Array(second))
        var older = [Int](repeating: 0, count: b.count + 1)
        var previous = Array(0...b.count)
        for i in a.indices {
            var row = [i + 1]
            for j in b.indices {
                var best = min(previous[j] + (a[i] == b[j] ? 0 : 1), previous[j + 1] + 1, row[j] + 1)
                if i > 0, j > 0, a[i] == b[j - 1], a[i - 1] == b[j] { best = min(best, older[j - 1] + 1) }
                row.append(best)
            }
            (older, previous) = (previous, row)
        }
        return previous[b.count]
    }
}
