// Why this file exists: `qblk convert`.
import ArgumentParser
struct ConvertCommand: ParsableCommand {
    static let configuration = CommandConfiguration(commandName: "convert", abstract: "Not yet.")
}
