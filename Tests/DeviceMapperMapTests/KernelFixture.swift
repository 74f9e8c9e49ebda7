// Images made by QEMU's own tools, and the questions every kernel test asks afterwards: are the bytes the same, and
// is nothing left behind.

import DeviceMapperMap
import DiskTypes
import Foundation
import ImageChain
import MapRegistry
import Testing
import SystemPackage

/// A folder of images on the guest's scratch disk.
struct KernelFixture {
    let folder: String

    init(_ name: String, on disk: String = "/scratch") throws {
        folder = "\(disk)/\(name)"
        try must("rm -rf \(folder); mkdir -p \(folder)")
    }

    func path(_ file: String) -> String { folder + "/" + file }

    /// Three layers: raw, 4 KiB clusters, 64 KiB clusters, each with random clusters written and some zeroed.
    func makeChain(raw rawSize: String = "24M") throws {
        try must(
            """
            cd \(folder)
            head -c \(rawSize) /dev/urandom >base.raw
            qemu-img create -q -f qcow2 -F raw -b base.raw -o cluster_size=4k mid.qcow2 32M
            qemu-img create -q -f qcow2 -F qcow2 -b mid.qcow2 -o cluster_size=64k top.qcow2 32M
            """)
        try scribble("mid.qcow2", cluster: 4096, writes: 120, seed: 7)
        try scribble("top.qcow2", cluster: 65536, writes: 40, seed: 11)
    }

    /// Writes random clusters and zeroes others, by a generator that always does the same.
    func scribble(_ file: String, cluster: Int, writes: Int, seed: UInt64) throws {
        var state = seed
        func random(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % limit
        }
        var commands: [String] = []
        for i in 0..<writes {
            let offset = random(32 << 20) / cluster * cluster
            let verb = i % 5 == 4 ? "write -z" : "write -P \(1 + i % 255)"
            commands.append("-c '\(verb) \(offset) \(cluster)'")
        }
        try must("cd \(folder); qemu-io -f qcow2 \(commands.joined(separator: " ")) \(file) >/dev/null")
    }

    func map(_ file: String, name: String? = nil) throws(ImageError) -> MapRecord {
        var options = DMMapOptions(image: FilePath(path(file)))
        options.name = name
        return try DMMap.map(options)
    }

    /// The device's bytes are what qemu-img reads, cached and uncached.
    func expectSameBytes(_ record: MapRecord, _ file: String) throws {
        try must("cd \(folder); qemu-img convert -U -O raw \(file) expected; sync")
        try must("cmp \(record.device) \(path("expected"))")
        try must("dd if=\(record.device) iflag=direct bs=64k status=none | cmp - \(path("expected"))")
    }

    /// No device, node, loop, lock or record is there any more.
    func expectNothingLeft(_ record: MapRecord, sourceLocation: SourceLocation = #_sourceLocation) throws {
        try must(
            """
            [ -z "$(dmsetup ls | grep -v 'No devices found' || true)" ] || { dmsetup ls; exit 1; }
            [ ! -e \(record.device) ] || { ls -l \(record.device); exit 1; }
            [ -z "$(losetup -a)" ] || { losetup -a; exit 1; }
            [ -z "$(ls /run/qblk 2>/dev/null || true)" ] || { ls /run/qblk; exit 1; }
            """, sourceLocation: sourceLocation)
    }
}
