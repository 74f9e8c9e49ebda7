// Every verb that needs an io_uring says why it has none, and what to do.

import Foundation
import TestKit
import Testing

@Suite("Without an io_uring", .enabled(if: Tools.haveQblk, "\(Tools.qblkReason)")) struct RingTests {
    /// Descriptors run out: the one reason that can be had on every machine.
    @Test
    func everyVerbThatMakesOneSaysSo() throws {
        try Scratch.withFolder("ring") { folder in
            try Command(["truncate", "-s", "1M", "a.raw"], in: folder).succeed()
            for words in ["serve -f raw a.raw --socket-path s", "bench a.raw -f raw --rw randread --seconds 1"] {
                // Enough for the image and its reader, not for what comes then.
                let limits = try (4...40).map { limit in
                    try Command(
                        ["timeout", "2", "sh", "-c", "ulimit -n \(limit); exec '\(Tools.qblk)' \(words)"], in: folder
                    ).run()
                }
                let said = limits.filter { $0.errors.contains("cannot make an io_uring") }
                #expect(!said.isEmpty, "\(words)")
                #expect(said.allSatisfy { $0.errors.contains("ulimit -n") && $0.errorLines.count == 1 }, "\(said)")
            }
        }
    }
}
