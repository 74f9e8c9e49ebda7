// A map is of files, not of names: while it lives, its image, backing and data files get other names, their names get other
// files, links are turned, folders change places, servers are killed. The device keeps its bytes, what is written goes
// into the image that was mapped, and nothing else changes.

import Foundation
import TestKit
import Testing

extension ReferenceModelTests {
    @Suite("Renaming under a map", .serialized, .enabled(if: Tools.canLoop, "\(Tools.loopReason)"))
    struct Renaming {
        enum Way: String, CaseIterable { case byName, byLink }

        @Test("the device stays the image's", arguments: ReferenceModel.seeds, Way.allCases)
        func renaming(seed: UInt64, way: Way) throws {
            try Scratch.withFolder("names") { folder in
                var tree = try RandomTree(scratch: folder, seed: seed &* 2 &+ (way == .byName ? 0 : 1))
                let (chain, disk) = try readableChain(&tree, way)
                var run = try Run(chain, disk, tree, "seed \(seed), \(way)")
                try run.write()
                try run.rename()
                if run.tree.chance(2, in: 3) { try run.kill() }
                try run.expectDisk()
                try run.write()
                try run.expectDisk()
                if run.tree.chance(1, in: 3) { try run.kill() }
                try run.unmap()
                try run.judge()
            }
        }

        /// A chain of which both programs say the same.
        private func readableChain(_ tree: inout RandomTree, _ way: Way) throws -> (ReferenceChain, Data) {
            for _ in 0..<40 {
                let chain = try tree.newChain { tree, top in
                    // A link in another folder has names in the header lead elsewhere.
                    way == .byName ? top : try tree.addAlias(of: top, in: Array(top.dropLast()), hard: false)
                }
                guard chain.layers.count > 1, let disk = try tree.bothReadings(chain).ours else { continue }
                return (chain, disk)
            }
            throw POSIXError(.ENOENT)
        }
    }

    /// A map while the ground moves beneath it.
    private struct Run {
        let chain: ReferenceChain
        let place: String
        var tree: RandomTree
        private var disk: Data
        private let mapping: Mapping
        /// As the chain was mapped, and the names after the renaming.
        private let before: TreeState
        private var after: TreeState
        private let inodes: [Place: UInt64]
        private var killed: Set<pid_t> = []

        init(_ chain: ReferenceChain, _ disk: Data, _ tree: RandomTree, _ place: String) throws {
            (self.chain, self.disk, self.tree) = (chain, disk, tree)
            before = try tree.state()
            after = before
            let entries = before.entries
            inodes = chain.files.reduce(into: [:]) { $0[$1] = entries[tree.path($1)]?.inode }
            let name = Mapping.freshName()
            let ran = try ReferenceModel.qblk(
                ["map", "--via", "loop", "--name", name, "-f", "qcow2", "--allow-path", "\(tree.scratch)/t"],
                [chain.image], in: chain.workingFolder)
            self.place = "\(place): \(ran) \(chain)"
            guard ran.exit == 0 else {
                Issue.record("\(self.place)")
                throw ran
            }
            mapping = Mapping(
                made: name, device: ran.outcome.output.trimmingCharacters(in: .whitespacesAndNewlines))
        }

        /// Writes here and there, and syncs.
        mutating func write() throws {
            let descriptor = open(mapping.device, O_WRONLY | O_CLOEXEC)
            try requireCall(descriptor)
            defer { close(descriptor) }
            for _ in 0..<12 {
                let start = tree.noise.below(disk.count)
                let piece = tree.noise.bytes(1 + tree.noise.below(min(12_000, disk.count - start)))
                let count = piece.withUnsafeBytes { pwrite(descriptor, $0.baseAddress, $0.count, off_t(start)) }
                #expect(count == piece.count, "\(place)")
                disk.replaceSubrange(start..<start + piece.count, with: piece)
            }
            #expect(fsync(descriptor) == 0, "\(place)")
        }

        func expectDisk() throws {
            let copy = "\(tree.scratch)/device"
            let dd = try Command([
                "dd", "if=\(mapping.device)", "of=\(copy)", "bs=64k", "iflag=direct", "status=none",
            ]).run()
            #expect(dd.exit == 0, "\(place) \(dd)")
            #expect(try Data(contentsOf: URL(filePath: copy)) == disk, "\(place)")
        }

        mutating func kill() throws {
            let server = try #require(try mapping.nextServerPID(after: killed), "\(place)")
            Foundation.kill(server, SIGKILL)
            killed.insert(server)
        }

        /// Gives every file of the chain another name, and most of their names to other files.
        mutating func rename() throws {
            let links = tree.aliases.filter { chain.files.contains($0.file) }.map(\.place)
            var others = tree.files.filter { !chain.files.contains($0) }.shuffled(using: &tree.noise)
            for file in chain.files {
                try move(file, to: tree.freePlace(in: tree.pick(tree.folders)))
                if tree.chance(4, in: 5), let other = others.popLast() { try move(other, to: file) }
            }
            for link in links where (try? linkText(tree.path(link))) != nil {
                if let other = others.popLast() { try tree.turn(link, to: other) }
            }
            let (one, other) = (tree.pick(tree.folders), tree.pick(tree.folders))
            if !one.starts(with: other), !other.starts(with: one) {
                let aside = tree.freePlace(in: [])
                try move(one, to: aside)
                try move(other, to: one)
                try move(aside, to: other)
            }
            after = try tree.state()
        }

        private func move(_ old: Place, to new: Place) throws {
            try requireCall(Foundation.rename(tree.path(old).cString, tree.path(new).cString))
        }

        private var top: UInt64? { inodes[chain.layers[0].place] }

        /// By the map's name or by one of the names that the image has now; not by the name of another file.
        mutating func unmap() throws {
            let stranger = after.entries.filter { $0.value.inode != top && $0.value.content.count > 100_000 }
            if let wrong = stranger.keys.sorted(by: { $0.lexicographicallyPrecedes($1) }).first {
                let refused = try ReferenceModel.qblk(["unmap"], [wrong], in: tree.path([]))
                #expect(refused.isRefusal, "\(place) \(refused)")
            }
            var words = Array(mapping.name.utf8)
            if tree.chance(1, in: 2), let name = after.paths(of: top).first { words = name }
            let ran = try ReferenceModel.qblk(["unmap"], [words], in: tree.path([]))
            #expect(ran.exit == 0, "\(place) \(ran)")
            #expect(mapping.leftoversAfterWaiting().isEmpty, "\(place) \(mapping.leftovers())")
        }

        /// The image holds the disk, and nothing else has changed.
        func judge() throws {
            let end = try tree.state()
            #expect(end.changes(since: after, content: false) == [], "\(place)")
            let written = Set([chain.layers[0].place, chain.layers[0].data].compactMap { $0 }.map { inodes[$0] })
            for (path, entry) in end.entries where !written.contains(entry.inode) {
                let isFile = mode_t(entry.mode) & S_IFMT == S_IFREG
                #expect(!isFile || before.entry(of: entry.inode) == entry, "\(path.shown) \(place)")
            }
            let held = try tree.meant(by: chain) { file in
                try #require(inodes[file].flatMap { end.entry(of: $0)?.content }, "\(file) \(place)")
            }
            #expect(held == disk, "\(place)")
        }
    }
}
