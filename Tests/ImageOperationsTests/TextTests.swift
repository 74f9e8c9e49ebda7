// Sizes and JSON are compared letter by letter with qemu-img's by other people's scripts.

import Testing

import DiskTypes
@testable import ImageOperations

struct TextTests {
    @Test(
        "sizes are rounded as qemu-img rounds them",
        arguments: [
            (0, "0 B"), (512, "512 B"), (999, "999 B"), (1000, "0.977 KiB"), (1024, "1 KiB"), (197_120, "192 KiB"),
            (1_335_296, "1.27 MiB"), (8 << 20, "8 MiB"), (1 << 50, "1 PiB"), (UInt64.max, "16 EiB"),
        ] as [(UInt64, String)])
    func sizes(bytes: UInt64, text: String) {
        #expect(ByteSize.text(bytes) == text)
    }

    @Test(
        "sizes are read with qemu-img's suffixes",
        arguments: [
            ("0", 0), ("4096", 4096), ("4k", 4096), ("4K", 4096), ("1.5M", 1_572_864), ("2G", 2 << 30), ("1P", 1 << 50),
            ("7E", 7 << 60), ("512b", 512), ("0x10", 16), ("", nil), ("-1", nil), ("k", nil), ("1x", nil), ("16E", nil),
            ("99999999999999999999", nil), ("1.5.5M", nil), ("1024.0", 1024), ("1.5", nil), (".5k", 512), (".", nil),
            ("+1k", 1024),
            ("0x10k", nil), ("15.999999999999999999999E", nil),
        ] as [(String, UInt64?)])
    func parsing(text: String, bytes: UInt64?) {
        #expect(ByteSize.parse(text) == bytes)
    }

    @Test("JSON escapes what a name may hold")
    func escapes() {
        #expect(JSONValue.quoted("a\"b\\c\n\u{1}é") == #""a\"b\\c\n\u0001é""#)
    }

    @Test("JSON keeps the order of keys and leaves out what is not there")
    func order() {
        let value = JSONValue.members(["b": .unsigned(UInt64.max), "none": nil, "a": .array([]), "c": .strings(["x"])])
        #expect(
            value.text == "{\n    \"b\": 18446744073709551615,\n    \"a\": [],\n    \"c\": [\n        \"x\"\n    ]\n}")
        #expect(value["c"] == .strings(["x"]) && value["none"] == nil)
    }

    @Test("the tree for people numbers lists and takes dashes out of keys")
    func tree() {
        let value = JSONValue.members([
            "refcount-bits": .number(16), "slots": .array([.members(["is-on": .bool(true)]), .string("x")]),
        ])
        #expect(
            value.lines(indent: 1) == [
                "    refcount bits: 16", "    slots:", "        [0]:", "            is on: true", "        [1]: x",
            ])
    }

    @Test("control characters of a name do not reach the terminal")
    func terminal() {
        #expect(JSONValue.members(["name": .string("a\u{1b}[2Jb")]).lines(indent: 0) == ["name: a\\x1b[2Jb"])
    }
}
