// Why this file exists: `qblk map`.
import ArgumentParser
struct MapCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "map", abstract: "Not yet.")
}
