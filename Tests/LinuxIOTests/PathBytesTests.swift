// Paths are bytes: on the command line, in records, in the kernel's tables. Each way in and out is held against random
// bytes, and against what Unicode takes for equal.
import DiskTypes
import Foundation
@testable import LinuxIO
import SystemPackage
import Testing

@Suite struct PathBytesTests {
    /// Bytes in which UTF-8, broken UTF-8 and characters of the escapes' own range come often.
    static func word(_ random: inout some RandomNumberGenerator) -> [UInt8] {
        var bytes: [UInt8] = []
        for _ in 0..<Int.random(in: 0...12, using: &random) {
            switch Int.random(in: 0..<6, using: &random) {
            case 0: bytes.append(UInt8.random(in: 1...255, using: &random))
            case 1: bytes += Array("é".utf8)
            case 2: bytes += Array("e\u{301}".utf8)
            case 3:
                bytes +=
                    Unicode.Scalar(UInt32.random(in: 0x10fdfe...0x10ff01, using: &random)).map {
                        Array(String($0).utf8)
                    } ?? []
            case 4: bytes += [0xf4, 0x8f, 0xb8, 0xff]
            default: bytes += Array("a/,=".utf8.shuffled(using: &random))
            }
        }
        return bytes
    }

    @Test func wordsOfTheCommandLineComeBackAsTheyWere() {
        var random = SystemRandomNumberGenerator()
        var texts: [String.UTF8View.Element: Int] = [:]
        for _ in 0..<20_000 {
            let bytes = Self.word(&random)
            let text = ArgumentText.encode(bytes)
            #expect(ArgumentText.decode(text) == bytes, "\(bytes)")
            texts[UInt8(truncatingIfNeeded: text.utf8.count), default: 0] += 1
        }
        #expect(texts.count > 20, "the words are of many lengths")
    }

    @Test func differentWordsHaveDifferentTexts() {
        var random = SystemRandomNumberGenerator()
        var seen: [[UInt8]: [UInt8]] = [:]
        for _ in 0..<20_000 {
            let bytes = Self.word(&random)
            let text = Array(ArgumentText.encode(bytes).utf8)
            #expect(seen[text] ?? bytes == bytes)
            seen[text] = bytes
        }
    }

    @Test func whatIsUTF8IsItself() {
        for text in ["disk.qcow2", "é", "e\u{301}", "名\u{1f600}", ""] {
            #expect(Array(ArgumentText.encode(Array(text.utf8)).utf8) == Array(text.utf8))
        }
    }

    @Test func namesLookDifferentWhereTheyAre() {
        var random = SystemRandomNumberGenerator()
        var seen: [String: [UInt8]] = [:]
        for _ in 0..<20_000 {
            let bytes = Self.word(&random).filter { $0 != 0xcc && $0 != 0x81 }
            let shown = printable(bytes)
            // As people and terminals see it: text that is canonically equal is one entry of this table.
            #expect(seen[shown].map { $0 == bytes } ?? true, "\(shown)")
            seen[shown] = bytes
        }
        #expect(printable([0x62, 0xff, 0x0a]) == "b\\xff\\x0a")
    }

    @Test func pathsThatUnicodeTakesForEqualAreTwo() throws {
        let composed = try #require(FilePath(bytes: Array("é".utf8)))
        let decomposed = try #require(FilePath(bytes: Array("e\u{301}".utf8)))
        #expect("é" == "e\u{301}", "which is why paths are no String")
        #expect(composed != decomposed && Set([composed, decomposed]).count == 2)
        #expect(FileName("é") != FileName("e\u{301}"))
    }

    @Test func aPathKeepsItsBytes() throws {
        let path = try #require(FilePath(bytes: Array("/a/b".utf8) + [0xff, 0xfe]))
        #expect(path.bytes == Array("/a/b".utf8) + [0xff, 0xfe])
        #expect("\(path)" == "/a/b\\xff\\xfe")
        let below: FilePath = "\(path)/state.json"
        #expect(below.bytes == path.bytes + Array("/state.json".utf8) && below.isBelow(path) && below.parent == path)
        #expect(FilePath(bytes: [0x61, 0]) == nil)
    }

    @Test(arguments: [
        ("f/", "f/."), ("/", "/"), ("//", "/"), ("a//b", "a/b"), ("d//", "d/."), ("./a:b", "./a:b"), ("", ""),
    ])
    func aSlashAtTheEndKeepsItsMeaning(_ given: String, _ kept: String) {
        #expect(FilePath(bytes: Array(given.utf8))?.bytes == Array(kept.utf8))
    }

    @Test func aFileWithASlashBehindItIsNoFile() throws {
        let scratch = try Scratch()
        let file = try scratch.file("f")
        let path = try #require(FilePath(bytes: Array((file + "/").utf8)))
        #expect(throws: Errno.notDirectory) { try Filesystem.readBytes(path) }
        #expect(Filesystem.isDirectory(FilePath(bytes: Array((scratch.path + "/").utf8)) ?? ""))
    }

    @Test func filesOfOddNamesAreFound() throws {
        let scratch = try Scratch()
        let odd: FilePath = "\(FilePath(scratch.path))/\(FilePath(bytes: [0x62, 0xff, 0x0a]) ?? "")"
        try Filesystem.writeAtomically(odd, "odd")
        try Filesystem.writeAtomically("\(scratch.path)/b\u{fffd}\n", "repaired")
        #expect(try Filesystem.read(odd) == "odd")
        #expect(try odd.realPath().bytes.suffix(3) == [0x62, 0xff, 0x0a])
        #expect(try Filesystem.removeFile(odd))
        #expect(try Filesystem.read("\(scratch.path)/b\u{fffd}\n") == "repaired")
    }

    @Test func theMountTableHasBytes() throws {
        let line =
            Array("1 2 0:3 / /mnt/\\134\\011".utf8) + [0xff] + Array(" rw - ext4 /dev/x".utf8) + [0xfe]
            + Array(" rw".utf8)
        let entry = try #require(MountTable.parse(line).first)
        #expect(entry.mountPoint.bytes == Array("/mnt/\\\t".utf8) + [0xff])
        #expect(entry.source.bytes == Array("/dev/x".utf8) + [0xfe])
    }
}

@Suite struct CodedPathTests {
    struct Record: Codable, Equatable {
        @CodedPath var image: FilePath
        @CodedPathIfAny var socket: FilePath?
        @CodedPaths var folders: [FilePath]
    }

    private func coded(_ record: Record) throws -> (text: String, back: Record) {
        let encoder = JSONEncoder()
        encoder.outputFormatting = [.sortedKeys, .withoutEscapingSlashes]
        let data = try encoder.encode(record)
        return (String(decoding: data, as: UTF8.self), try JSONDecoder().decode(Record.self, from: data))
    }

    @Test func pathsOfUTF8AreStrings() throws {
        let record = Record(image: "/a/é", socket: nil, folders: ["/b"])
        let (text, back) = try coded(record)
        #expect(text == #"{"folders":["/b"],"image":"/a/é"}"# && back == record)
    }

    @Test func otherPathsAreTheirBytes() throws {
        let odd = try #require(FilePath(bytes: [0x2f, 0x62, 0xff]))
        let record = Record(image: odd, socket: odd, folders: [odd, "/b"])
        let (text, back) = try coded(record)
        #expect(
            text == #"{"folders":[{"bytes":"2f62ff"},"/b"],"image":{"bytes":"2f62ff"},"socket":{"bytes":"2f62ff"}}"#)
        #expect(back == record)
    }

    @Test(arguments: [#"{"bytes":"2f6"}"#, #"{"bytes":"+1"}"#, #""a\u0000b""#, #"{"bytes":"6100"}"#, "7"])
    func whatIsNoPathIsRefused(_ path: String) {
        let text = #"{"folders":[],"image":\#(path)}"#
        #expect(throws: (any Error).self) { try JSONDecoder().decode(Record.self, from: Data(text.utf8)) }
    }
}
