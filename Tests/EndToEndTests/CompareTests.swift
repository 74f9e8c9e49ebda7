// Scripts branch on compare's exit code. It is 0 for same, 1 for different and above 1 for trouble, in every case
// where qemu-img's is.

import Foundation
import TestKit
import Testing

@Suite("Compare's exit codes are qemu-img's", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct CompareTests {
    /// Two files and the options to compare them with.
    struct Pair: Sendable, CustomStringConvertible {
        let description: String
        var options: [String] = []
        let code: Int32
        let make: @Sendable (ImageBuilder) throws -> Void

        init(
            _ name: String, _ options: [String] = [], code: Int32,
            _ make: @escaping @Sendable (ImageBuilder) throws -> Void
        ) {
            description = name
            self.options = options
            self.code = code
            self.make = make
        }
    }

    static let pairs: [Pair] = [
        Pair("same bytes, other layout", code: 0) { builder in
            try builder.create("1M", "cluster_size=4k", as: "a.qcow2")
            try builder.create("1M", "compat=0.10", as: "b.qcow2")
            for name in ["a.qcow2", "b.qcow2"] { try builder.scribble(1 << 20, on: name) }
        },
        Pair("one byte differs", code: 1) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("1M", as: "b.qcow2")
            try builder.io(["write -P 1 700000 1"], on: "b.qcow2")
        },
        Pair("written zeros and unallocated", code: 0) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("1M", as: "b.qcow2")
            try builder.io(["write -P 0 0 64k"], on: "b.qcow2")
        },
        Pair("written zeros and unallocated, strictly", ["-s"], code: 1) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("1M", as: "b.qcow2")
            try builder.io(["write -P 0 0 64k"], on: "b.qcow2")
        },
        Pair("longer by zeros", code: 0) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("2M", as: "b.qcow2")
            for name in ["a.qcow2", "b.qcow2"] { try builder.io(["write -P 1 0 1M"], on: name) }
        },
        Pair("longer by zeros, strictly", ["-s"], code: 1) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("2M", as: "b.qcow2")
        },
        Pair("longer by data", code: 1) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("2M", as: "b.qcow2")
            try builder.io(["write -P 1 1536k 1"], on: "b.qcow2")
        },
        Pair("the first is longer by data", code: 1) { builder in
            try builder.create("2M", as: "a.qcow2")
            try builder.create("1M", as: "b.qcow2")
            try builder.io(["write -P 1 1536k 1"], on: "a.qcow2")
        },
        Pair("the second is missing", code: 2) { builder in try builder.create("1M", as: "a.qcow2") },
        Pair("the first is missing", code: 2) { builder in try builder.create("1M", as: "b.qcow2") },
        Pair("the second has lost its L2 table", code: 2) { builder in
            try builder.create("1M", as: "a.qcow2")
            try builder.create("1M", as: "b.qcow2")
            for name in ["a.qcow2", "b.qcow2"] { try builder.io(["write -P 1 0 64k"], on: name) }
            try builder.patch("b.qcow2") { $0.put(1 << 63 | 0x1001, at: $0.l1(0)) }
        },
    ]

    @Test("compare", arguments: pairs)
    func exitCode(of pair: Pair) throws {
        try Scratch.withFolder { folder in
            try pair.make(ImageBuilder(folder: folder))
            let files = ["\(folder)/a.qcow2", "\(folder)/b.qcow2"]
            let theirs = try Command(["qemu-img", "compare"] + pair.options + files).run()
            let ours = try qblk(["compare"] + pair.options + files)
            if pair.code < 2 {
                #expect(theirs.exit == pair.code, "the pair is not what it says: \(theirs)")
                #expect(ours.exit == pair.code, "\(ours)")
            } else {
                #expect((theirs.exit ?? 0) > 1, "the pair is not what it says: \(theirs)")
                #expect((ours.exit ?? 0) > 1, "\(ours)")
                #expect(ours.errorLines.count == 1 && ours.errors.hasPrefix("qblk: "), "\(ours)")
            }
        }
    }

    @Test("the first different offset is on standard output", arguments: [0, 700_000, (1 << 20) - 1])
    func offset(at place: Int) throws {
        try Scratch.withFolder { folder in
            let builder = ImageBuilder(folder: folder)
            for name in ["a.qcow2", "b.qcow2"] { try builder.create("1M", as: name) }
            try builder.io(["write -P 1 \(place) 1"], on: "b.qcow2")
            let ours = try qblk("compare", builder.path("a.qcow2"), builder.path("b.qcow2"))
            #expect(ours.exit == 1, "\(ours)")
            // qemu-img names the sector, we may name the byte.
            #expect(ours.output.contains("\(place)") || ours.output.contains("\(place & ~511)"), "\(ours)")
        }
    }
}
