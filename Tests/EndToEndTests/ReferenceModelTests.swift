// Which file a name leads to, asked at random: trees of odd names, chains that name each other in every way, commands that
// spell the image in every way. Where this program reads, qemu-img reads the same bytes; what is written goes into the
// file that the kernel finds by the name; nothing else in the tree changes. Each expectation tells its seed:
//
//     QBLK_SEED=7 swift test --filter ReferenceModelTests                    that seed alone
//     QBLK_SEED=7 QBLK_SEEDS=200 swift test --filter ReferenceModelTests     that one and the 199 behind it
//
// Without QBLK_SEED, QBLK_SEEDS takes as many from a random one on.

import Foundation
import TestKit
import Testing

enum ReferenceModel {
    static let seeds: [UInt64] = {
        let environment = ProcessInfo.processInfo.environment
        let given = environment["QBLK_SEED"].flatMap { UInt64($0) }
        let other = given ?? .random(in: 100...999_999_999)
        if let count = environment["QBLK_SEEDS"].flatMap({ UInt64($0) }) { return (0..<count).map { other &+ $0 } }
        return given.map { [$0] } ?? [1, 2, 3, other]
    }()

    static func qblk(_ options: [String], _ files: [Bytes], in folder: Bytes) throws -> Ran {
        try Ran([Tools.qblk] + options, files, in: folder)
    }
}

extension RandomTree {
    var tree: Bytes { path([[UInt8(ascii: "t")]]) }
    func state() throws -> TreeState { try TreeState(tree) }

    /// What `qblk convert` and `qemu-img convert` make of the image; nil where they fail.
    func bothReadings(_ chain: ReferenceChain) throws -> (ours: Data?, theirs: Data?, said: String, refused: Bool) {
        let (ours, theirs) = ("\(scratch)/ours", "\(scratch)/theirs")
        for file in [ours, theirs] { unlink(file) }
        let reading = ["convert", "-f", "qcow2", "-O", "raw"]
        let own = try ReferenceModel.qblk(
            reading + ["--allow-path", "\(scratch)/t"], [chain.image, Array(ours.utf8)], in: chain.workingFolder)
        let qemu = try Ran(
            ["qemu-img"] + reading, [chain.imageForQEMU, Array(theirs.utf8)], in: chain.workingFolder)
        return (
            own.exit == 0 ? try Data(contentsOf: URL(filePath: ours)) : nil,
            qemu.exit == 0 ? try Data(contentsOf: URL(filePath: theirs)) : nil, "\(own)\n\(qemu)\n\(chain)",
            own.isRefusal
        )
    }
}

@Suite("A model of names", .enabled(if: Tools.canCompare, "\(Tools.compareReason)"))
struct ReferenceModelTests {
    private static let chains = 24

    @Test("what is read is what qemu-img reads", arguments: ReferenceModel.seeds) func reading(seed: UInt64) throws {
        try Scratch.withFolder("names") { folder in
            var tree = try RandomTree(scratch: folder, seed: seed)
            var followed = 0
            for number in 0..<Self.chains {
                let chain = try tree.newChain { $0.anyName(of: $1) }
                let before = try tree.state()
                let place = "seed \(seed), chain \(number)"
                if try read(chain, &tree, place) {
                    followed += 1
                    if tree.chance(1, in: 3) { try lookAt(chain, &tree, place) }
                }
                #expect(try tree.state().changes(since: before) == [], "\(place) \(chain)")
            }
            #expect(followed * 3 >= Self.chains, "seed \(seed): \(followed) of \(Self.chains) were followed")
        }
    }

    /// Whether the chain was followed.
    private func read(_ chain: ReferenceChain, _ tree: inout RandomTree, _ place: String) throws -> Bool {
        let (ours, theirs, said, isRefusal) = try tree.bothReadings(chain)
        guard let ours else {
            #expect(isRefusal, "\(place): \(said)")
            return false
        }
        if theirs == nil, chain.hasRelativeDataFile {
            // QEMU looked for it in the folder of the command, where it is not.
            #expect(try ours == tree.meant(by: chain) { try contents(of: tree.path($0)) }, "\(place): \(said)")
        } else {
            #expect(theirs == ours, "\(place): \(said)")
        }
        return true
    }

    /// The other verbs that follow names.
    private func lookAt(_ chain: ReferenceChain, _ tree: inout RandomTree, _ place: String) throws {
        let allowed = ["--allow-path", "\(tree.scratch)/t"]
        let output = Array("\(tree.scratch)/ours".utf8)
        let same = try ReferenceModel.qblk(
            ["compare", "-f", "qcow2", "-F", "raw"] + allowed, [chain.image, output], in: chain.workingFolder)
        #expect(same.exit == 0, "\(place): \(same)")
        try ImagePattern(&tree.noise).raw.write(to: URL(filePath: "\(tree.scratch)/ours"))
        let different = try ReferenceModel.qblk(
            ["compare", "-f", "qcow2", "-F", "raw"] + allowed, [chain.image, output], in: chain.workingFolder)
        #expect(different.exit == 1, "\(place): \(different)")
        let info = ["info", "-f", "qcow2", "--backing-chain", "--output", "json"]
        let ours = try ReferenceModel.qblk(info + allowed, [chain.imageForQEMU], in: chain.workingFolder)
        let theirs = try Ran(["qemu-img"] + info, [chain.imageForQEMU], in: chain.workingFolder)
        guard theirs.exit == 0 || !chain.hasRelativeDataFile else { return }
        #expect(ours.exit == 0 && theirs.exit == 0, "\(place): \(ours) \(theirs)")
        let (own, qemu) = (try names(ours), try names(theirs))
        #expect(own == qemu, "\(place): \(ours.line)\n\(chain)")
    }

    /// What `info` says of each layer. A file without a format is "file" for QEMU and "raw" for this program, which also
    /// writes one slash where there were two; what is not UTF-8 becomes one U+FFFD or several.
    private func names(_ ran: Ran) throws -> [[String]] {
        try (ran.outcome.json().array ?? []).map { layer in
            ["filename", "format", "backing-filename", "backing-filename-format", "virtual-size"].map { key in
                let value = key == "format" && layer[key]?.string == "file" ? .string("raw") : layer[key]
                return Bytes(
                    (value?.description ?? "none").unicodeScalars.reduce(into: "") { text, scalar in
                        let isRepeated = text.unicodeScalars.last == scalar && (scalar == "/" || scalar == "\u{fffd}")
                        if !isRepeated { text.unicodeScalars.append(scalar) }
                    }.utf8
                ).shown
            }
        }
    }
}

extension ReferenceModelTests {
    @Suite("Writing") struct Writing {
        private static let commands = 24

        @Test("what is written goes where the name leads", arguments: ReferenceModel.seeds) func writing(seed: UInt64)
            throws
        {
            try Scratch.withFolder("names") { folder in
                var tree = try RandomTree(scratch: folder, seed: seed)
                var made = 0
                for number in 0..<Self.commands {
                    let place = "seed \(seed), command \(number)"
                    switch tree.noise.below(5) {
                    case 0...1: made += try convert(&tree, place) ? 1 : 0
                    case 2...3: made += try create(&tree, place) ? 1 : 0
                    default: made += try resize(&tree, place) ? 1 : 0
                    }
                }
                #expect(made * 3 >= Self.commands, "seed \(seed): \(made) of \(Self.commands) wrote")
            }
        }

        /// A name to write to, in a working folder: free, of a file, by links, leading nowhere.
        private func target(_ tree: inout RandomTree) -> (folder: Place, place: Place, name: Bytes) {
            let folder = tree.pick(tree.folders)
            let place =
                switch tree.noise.below(6) {
                case 0...1: tree.freePlace(in: tree.pick(tree.folders))
                case 2: tree.pick(tree.aliases).place
                case 3: tree.pick(tree.dangling)
                case 4 where tree.chance(1, in: 4): tree.pick(tree.folders)
                default: tree.pick(tree.files)
                }
            return (folder, place, tree.spelled(place, from: tree.chance(2, in: 3) ? folder : nil))
        }

        /// Runs `command`, and holds its changes of the tree against the one file that the kernel finds by `name`. Returns
        /// that file if it was written.
        private func written(
            _ tree: RandomTree, _ name: Bytes, in folder: Place, _ place: String, mayRefuse: Bool = false,
            _ command: () throws -> Ran
        ) throws -> Bytes? {
            let goal = Self.goal(name, from: tree.path(folder))
            let before = try tree.state()
            let ran = try command()
            let after = try tree.state()
            guard ran.exit == 0 else {
                #expect(ran.isRefusal && (goal == nil || mayRefuse), "\(place): \(ran)")
                #expect(after.changes(since: before) == [], "\(place): \(ran)")
                return nil
            }
            let inode = goal.flatMap { after.entries[$0]?.inode }
            let links = after.paths(of: inode).map(\.shown).sorted()
            #expect(after.changes(since: before, folders: false) == links && inode != nil, "\(place): \(ran)")
            return goal
        }

        private func convert(_ tree: inout RandomTree, _ place: String) throws -> Bool {
            let pattern = ImagePattern(&tree.noise)
            let source = "\(tree.scratch)/source"
            try pattern.whole().write(to: URL(filePath: source))
            let format = tree.pick(["raw", "qcow2"])
            let (folder, _, name) = target(&tree)
            let goal = try written(tree, name, in: folder, place) {
                try ReferenceModel.qblk(
                    ["convert", "-f", "qcow2", "-O", format], [Array(source.utf8), name], in: tree.path(folder))
            }
            if let goal { try expect(pattern.raw, in: goal, format, tree, place) }
            return goal != nil
        }

        private func create(_ tree: inout RandomTree, _ place: String) throws -> Bool {
            let pattern = ImagePattern(&tree.noise)
            let (folder, target, name) = target(&tree)
            let backing = tree.pick(tree.files)
            let goal = Self.goal(name, from: tree.path(folder))
            try tree.write(pattern.whole(), to: backing)
            let own = fileNumber(tree.path(backing))
            guard goal.flatMap(fileNumber) != own else { return false }
            let reference = tree.spelled(
                tree.anyName(of: backing), from: tree.chance(3, in: 4) ? Array(target.dropLast()) : nil)
            // From another folder than the target's own a relative name may lead nowhere: the target is named by links.
            let written = try written(tree, name, in: folder, place, mayRefuse: true) {
                try Ran(
                    [Tools.qblk, "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"].map { Array($0.utf8) }
                        + [reference, Array("--".utf8), name], in: tree.path(folder))
            }
            guard written != nil else { return false }
            let image = name.hasProtocol ? Array("./".utf8) + name : name
            unlink("\(tree.scratch)/theirs")
            let theirs = try Ran(
                ["qemu-img", "convert", "-f", "qcow2", "-O", "raw"], [image, Array("\(tree.scratch)/theirs".utf8)],
                in: tree.path(folder))
            #expect(theirs.exit == 0, "\(place): \(theirs)")
            #expect(try Data(contentsOf: URL(filePath: "\(tree.scratch)/theirs")) == pattern.raw, "\(place): \(theirs)")
            return true
        }

        private func resize(_ tree: inout RandomTree, _ place: String) throws -> Bool {
            let pattern = ImagePattern(&tree.noise)
            let (file, folder) = (tree.pick(tree.files), tree.pick(tree.folders))
            try tree.write(pattern.whole(), to: file)
            let name = tree.spelled(tree.anyName(of: file), from: tree.chance(2, in: 3) ? folder : nil)
            let goal = try written(tree, name, in: folder, place) {
                try ReferenceModel.qblk(
                    ["resize", "-q", "-f", "qcow2"], [name, Array("+64k".utf8)], in: tree.path(folder))
            }
            if let goal { try expect(pattern.raw + Data(count: 64 << 10), in: goal, "qcow2", tree, place) }
            return goal != nil
        }

        /// What QEMU reads from the file of that path.
        private func expect(_ disk: Data, in file: Bytes, _ format: String, _ tree: RandomTree, _ place: String) throws
        {
            let theirs = "\(tree.scratch)/theirs"
            let ran = try Ran(
                ["qemu-img", "convert", "-f", format, "-O", "raw"], [file, Array(theirs.utf8)], in: tree.path([]))
            #expect(ran.exit == 0, "\(place): \(ran)")
            #expect(try Data(contentsOf: URL(filePath: theirs)) == disk, "\(place): \(ran)")
        }

        /// The file that a program gets which opens `name` for writing and creates it if need be, by a path without links.
        /// Nil where it would get none.
        private static func goal(_ name: Bytes, from folder: Bytes) -> Bytes? {
            var path = name.first == UInt8(ascii: "/") ? name : folder + Array("/".utf8) + name
            for _ in 0..<40 {
                let last = path.lastIndex(of: UInt8(ascii: "/")) ?? 0
                guard let real = realpath((path[..<last] + [0]).map { CChar(bitPattern: $0) }, nil) else { return nil }
                path = Array(UnsafeRawBufferPointer(start: real, count: strlen(real))) + path[last...]
                free(real)
                var status = stat()
                guard lstat(path.cString, &status) == 0 else { return path }
                guard status.st_mode & S_IFMT == S_IFLNK, let text = try? linkText(path) else {
                    return status.st_mode & S_IFMT == S_IFREG ? path : nil
                }
                let parent = path[..<(path.lastIndex(of: UInt8(ascii: "/")) ?? 0)]
                path = text.first == UInt8(ascii: "/") ? text : parent + Array("/".utf8) + text
            }
            return nil
        }
    }
}
