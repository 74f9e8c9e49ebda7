// Images to write to, of every shape that has rules of its own, made by qemu-img: what we make ourselves would share
// our mistakes.
import DiskTypes
import Foundation
import QCOW2
import TestKit
import Testing

struct WriterShape: CustomTestStringConvertible, Sendable {
    let name: String
    var options: [String] = []
    var size = 4 << 20
    var hasBacking = false
    /// qemu-io commands before we begin.
    var before: [String] = []
    var snapshot = false
    var testDescription: String { name }

    static let all: [WriterShape] = [
        WriterShape(name: "64k"),
        WriterShape(name: "64k, backing", hasBacking: true),
        WriterShape(name: "512", options: ["cluster_size=512"], size: 1 << 20),
        WriterShape(
            name: "512, backing, 1 bit", options: ["cluster_size=512", "refcount_bits=1"], size: 1 << 20,
            hasBacking: true),
        WriterShape(name: "4k, 64 bits", options: ["cluster_size=4k", "refcount_bits=64"]),
        WriterShape(
            name: "4k, 2 bits, snapshot", options: ["cluster_size=4k", "refcount_bits=2"], before: ["write -P 7 0 2M"],
            snapshot: true),
        WriterShape(name: "2M", options: ["cluster_size=2M"], size: 16 << 20),
        WriterShape(name: "version 2", options: ["compat=0.10"], size: 3 << 20),
        WriterShape(
            name: "version 2, backing", options: ["compat=0.10", "cluster_size=4k"], size: 3 << 20, hasBacking: true),
        WriterShape(name: "extended", options: ["extended_l2=on"]),
        WriterShape(name: "extended, backing", options: ["extended_l2=on"], hasBacking: true),
        WriterShape(
            name: "extended 16k, snapshot", options: ["extended_l2=on", "cluster_size=16k"],
            before: ["write -P 7 0 2M", "write -z 1M 100k"], snapshot: true),
        WriterShape(name: "odd size", options: ["cluster_size=64k"], size: (4 << 20) - 512 * 77),
        WriterShape(name: "lazy refcounts", options: ["lazy_refcounts=on"]),
        WriterShape(name: "snapshot", before: ["write -P 7 0 2M"], snapshot: true),
        WriterShape(name: "zero clusters", before: ["write -P 7 0 2M", "write -z 512k 512k", "write -z -u 1M 512k"]),
        WriterShape(name: "preallocated", options: ["preallocation=metadata"]),
    ]

    static var missing: String? { Tools.have("qemu-img") && Tools.have("qemu-io") ? nil : "needs qemu-img and qemu-io" }

    /// The image's bytes, those of its backing file, and what a guest reads.
    func make(in folder: String) throws -> (image: [UInt8], backing: [UInt8], guest: [UInt8]) {
        var backing: [UInt8] = []
        var arguments = ["qemu-img", "create", "-q", "-f", "qcow2"]
        if !options.isEmpty { arguments += ["-o", options.joined(separator: ",")] }
        if hasBacking {
            // Shorter than the image.
            var dice = SeededRandom(5)
            backing = (0..<size / 2).map {
                $0 & 511 < 2 ? UInt8(truncatingIfNeeded: dice.next()) : UInt8(truncatingIfNeeded: $0 >> 9)
            }
            try Data(backing).write(to: URL(filePath: "\(folder)/base.raw"))
            arguments += ["-b", "\(folder)/base.raw", "-F", "raw"]
        }
        let path = "\(folder)/image.qcow2"
        try Command(arguments + [path, "\(size)"]).succeed()
        if !before.isEmpty {
            try Command(["qemu-io", "-f", "qcow2"] + before.flatMap { ["-c", $0] } + [path]).succeed()
        }
        if snapshot { try Command(["qemu-img", "snapshot", "-c", "one", path]).succeed() }
        let image = try Data(contentsOf: URL(filePath: path))
        return (Array(image), backing, try WriterShape.guestBytes(path, folder))
    }

    /// What qemu-img reads.
    static func guestBytes(_ path: String, _ folder: String) throws -> [UInt8] {
        try Command(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, "\(folder)/out.raw"]).succeed()
        return Array(try Data(contentsOf: URL(filePath: "\(folder)/out.raw")))
    }
}
