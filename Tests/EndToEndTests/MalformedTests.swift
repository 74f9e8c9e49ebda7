// Bad input gives one clear line, a non-zero exit and nothing else: no crash, no hang, no flood of memory, no wrong
// bytes. These tests run every malformed image through the verbs.

import Foundation
import TestKit
import Testing

@Suite(
    "Malformed images", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"),
    .enabled(if: Tools.canMeasure, "\(Tools.measureReason)"))
struct MalformedTests {
    static let secondsAllowed = 2.0
    static let bytesAllowed = 256 << 20

    @Test("one clear error, or the right bytes", arguments: Malformed.all)
    func refused(malformed: Malformed) throws {
        let made = try MadeMalformed(malformed)
        defer { made.remove() }
        for verb in Verb.allCases where verb != .snapshot || malformed.base == .snapshot {
            let outcome = try made.run(verb)
            expectCivil(outcome)
            if malformed.works.contains(verb) {
                #expect(outcome.exit == 0, "\(verb) must work: \(outcome)")
            } else if malformed.fails.contains(verb) {
                #expect(outcome.exit != 0, "\(verb) must fail: \(outcome)")
            }
            if outcome.exit == 0 {
                #expect(outcome.errorLines.count <= 1, "a warning is one line: \(outcome)")
                // A case that loses bytes has failed above already.
                if verb == .convert, !malformed.fails.contains(.convert), let good = made.good {
                    #expect(try differenceOfFiles(made.output, good) == nil, "wrong bytes, and no error: \(outcome)")
                }
            } else {
                expectOneLine(outcome, codes: verb == .compare ? 2...125 : 1...1)
                if verb == .convert {
                    for word in malformed.mentions {
                        #expect(
                            outcome.errors.lowercased().contains(word.lowercased()), "\(word) is not named: \(outcome)")
                    }
                }
            }
        }
    }

    @Test("check survives them", arguments: Malformed.all)
    func checked(malformed: Malformed) throws {
        let made = try MadeMalformed(malformed)
        defer { made.remove() }
        let outcome = try made.qblk(["check", "-f", "qcow2", made.image])
        expectCivil(outcome)
        if !malformed.works.contains(.info), malformed.fails.contains(.info) {
            #expect(outcome.exit != 0, "\(outcome)")
        }
    }

    @Test("convert --salvage saves what is not lost", arguments: Malformed.all.filter { $0.lost != nil })
    func salvaged(malformed: Malformed) throws {
        let made = try MadeMalformed(malformed)
        defer { made.remove() }
        let outcome = try made.qblk(["convert", "--salvage", "-f", "qcow2", "-O", "raw", made.image, made.output])
        try #require(outcome.exit == 0, "\(outcome)")
        let good = try #require(made.good)
        var expected = try Data(contentsOf: URL(filePath: good))
        for range in malformed.lost ?? [] {
            expected.replaceSubrange(range, with: Data(count: range.count))
        }
        let saved = try Data(contentsOf: URL(filePath: made.output))
        #expect(saved.count == expected.count)
        let first = zip(saved, expected).enumerated().first { $0.element.0 != $0.element.1 }
        #expect(first == nil, "first wrong byte at \(first?.offset ?? 0)")
    }

    /// Not killed, no trap, no trace, within the limits.
    private func expectCivil(_ outcome: Outcome) {
        #expect(!outcome.timedOut, "\(outcome)")
        #expect(outcome.signal == nil, "\(outcome)")
        #expect((outcome.exit ?? 0) < 126, "\(outcome)")
        // Time on the CPU: the wall clock of a busy machine proves nothing, and a hang ends at the deadline.
        #expect(outcome.cpuSeconds < Self.secondsAllowed, "\(outcome)")
        #expect(outcome.peakBytes.map { $0 < Self.bytesAllowed } == true, "\(outcome)")
        for trace in ["Fatal error", "Stack dump", "Backtrace", " at /", "Crash"] {
            #expect(!outcome.errors.contains(trace), "\(outcome)")
        }
    }

    private func expectOneLine(_ outcome: Outcome, codes: ClosedRange<Int32>) {
        #expect(outcome.exit.map { codes.contains($0) } == true, "\(outcome)")
        #expect(outcome.errorLines.count == 1, "\(outcome)")
        #expect(outcome.errors.hasPrefix("qblk: "), "\(outcome)")
        let printable = outcome.errors.unicodeScalars.allSatisfy { $0 == "\n" || $0.value >= 32 && $0.value != 127 }
        #expect(printable, "control characters from the image reach the terminal: \(outcome)")
    }
}

/// A malformed image on disk, with the bytes it had before it was harmed.
struct MadeMalformed {
    let folder: String
    let image: String
    /// Nil when the case has no good image to begin with.
    let good: String?
    let output: String

    init(_ malformed: Malformed) throws {
        folder = try Scratch.newFolder(malformed.name)
        image = "\(folder)/image.qcow2"
        output = "\(folder)/out.raw"
        if malformed.base != .none {
            let source = try Once.run("malformed:\(malformed.base)") {
                let folder = try Scratch.newFolder("base-\(malformed.base)")
                try malformed.base.make(ImageBuilder(folder: folder))
                let convert = ["qemu-img", "convert", "-O", "raw", "image.qcow2", "good.raw"]
                try Command(convert, in: folder).succeed()
                return folder
            }
            try Command(["cp", "-r", "\(source)/.", folder]).succeed()
            good = "\(folder)/good.raw"
        } else {
            good = nil
        }
        try malformed.harm(ImageBuilder(folder: folder))
    }

    func remove() { try? FileManager.default.removeItem(atPath: folder) }

    /// The deadline is far above what is allowed, and only ends what hangs.
    func qblk(_ arguments: [String]) throws -> Outcome {
        var command = Command([Tools.qblk] + arguments, in: folder, deadline: 60)
        command.measuresMemory = true
        return try command.run()
    }

    func run(_ verb: Verb) throws -> Outcome {
        switch verb {
        case .info: try qblk(["info", "-f", "qcow2", "--json", image])
        case .extents: try qblk(["extents", "-f", "qcow2", "--json", image])
        case .convert: try qblk(["convert", "-f", "qcow2", "-O", "raw", image, output])
        case .compare: try qblk(["compare", "-f", "qcow2", "-F", "raw", image, try blank()])
        case .snapshot: try qblk(["convert", "-f", "qcow2", "-O", "raw", "-l", "kept", image, "\(folder)/kept.raw"])
        }
    }

    /// What to compare with: the bytes before the harm, else an empty disk.
    private func blank() throws -> String {
        if let good { return good }
        let path = "\(folder)/blank.raw"
        try Data(count: 1 << 20).write(to: URL(filePath: path))
        return path
    }
}
